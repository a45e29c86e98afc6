/*
 * index.h
 *		Hash tables for millions of entries: a set of nonces, and a map from
 *		references to the newest record that carries them.
 */
#ifndef INDEX_H
#define INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Each table is cut into this many parts that grow one by one: doubling a
 * table of four million entries at once would hold up a request for tens of
 * milliseconds, doubling a part of it takes tens of microseconds.
 */
#define INDEX_PARTS 256

/* A set of nonces. Zero-initialised is empty. */
struct nonce_set
{
	struct nonce_part
	{
		uint64_t *slots; /* 0 is free */
		uint32_t size;	 /* a power of two, or 0 */
		uint32_t used;
	} parts[INDEX_PARTS];
	bool has_zero;
};

/* Adds a nonce; returns false where it was there already. */
bool nonce_set_add(struct nonce_set *set, uint64_t nonce);

/* Frees all memory and makes the set empty. */
void nonce_set_free(struct nonce_set *set);

/* A map from hashed keys to record numbers. Zero-initialised is empty. */
struct reference_map
{
	struct reference_part
	{
		struct reference_slot
		{
			uint32_t tag;	 /* bits of the hash, to compare before the key */
			uint32_t record; /* the record's number + 1; 0 is free */
		} * slots;
		uint32_t size; /* a power of two, or 0 */
		uint32_t used;
	} parts[INDEX_PARTS];
};

/* Says whether a record has the key that is looked for. */
typedef bool (*reference_match)(const void *context, uint32_t record);

/*
 * Returns where the record number of a key stands, made new with value 0 where
 * the key is not there and `add` is set; else NULL. The place holds the number
 * + 1, and moves with the next addition.
 */
uint32_t *reference_map_find(struct reference_map *map, uint64_t hash,
							 reference_match match, const void *context,
							 bool add);

/* Frees all memory and makes the map empty. */
void reference_map_free(struct reference_map *map);

/* Mixes bytes into a hash (pass 0, or the hash of what stands before). */
uint64_t hash_bytes(uint64_t hash, const void *bytes, size_t length);

#endif
