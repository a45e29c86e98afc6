/*
 * index.c
 *		Hash tables for millions of entries: a set of nonces, and a map from
 *		references to the newest record that carries them.
 *
 * Open addressing with linear probing; nothing is ever removed, so there are no
 * tombstones. A nonce costs 11 to 21 bytes, a reference as much.
 *
 * Of a 64-bit hash the lowest eight bits choose the part. The map keeps the
 * upper half beside each record, the tag: it places the record, so that a part
 * can grow without looking at the records, and nearly always tells two keys
 * apart before their text must.
 */
#include "index.h"

#include <stdlib.h>
#include <string.h>

#include "text.h"

/* A part's first size, in slots. */
#define FIRST_SIZE 8

/* Full at three quarters: linear probing stays short below that. */
#define IS_FULL(part) \
	((uint64_t) (part)->used * 4 >= (uint64_t) (part)->size * 3)

/* The finalizer of MurmurHash3: every bit of the input moves every bit out. */
static uint64_t
mix(uint64_t value)
{
	value ^= value >> 33;
	value *= UINT64_C(0xff51afd7ed558ccd);
	value ^= value >> 33;
	value *= UINT64_C(0xc4ceb9fe1a85ec53);
	value ^= value >> 33;
	return value;
}

uint64_t
hash_bytes(uint64_t hash, const void *bytes, size_t length)
{
	const unsigned char *next = bytes;

	hash ^= UINT64_C(0xcbf29ce484222325);
	for (size_t i = 0; i < length; i++)
		hash = (hash ^ next[i]) * UINT64_C(0x100000001b3);
	return mix(hash);
}

/* Puts a nonce into a part that has room; returns false where it is there. */
static bool
nonce_insert(struct nonce_part *part, uint64_t nonce)
{
	uint32_t slot = (uint32_t) (mix(nonce) >> 8) & (part->size - 1);

	while (part->slots[slot] != 0)
	{
		if (part->slots[slot] == nonce)
			return false;
		slot = (slot + 1) & (part->size - 1);
	}
	part->slots[slot] = nonce;
	part->used++;
	return true;
}

bool
nonce_set_add(struct nonce_set *set, uint64_t nonce)
{
	struct nonce_part *part = &set->parts[mix(nonce) % INDEX_PARTS];

	if (nonce == 0)
	{
		bool is_new = !set->has_zero;

		set->has_zero = true;
		return is_new;
	}
	if (IS_FULL(part))
	{
		struct nonce_part old = *part;

		part->size = old.size == 0 ? FIRST_SIZE : old.size * 2;
		part->used = 0;
		part->slots = must_allocate(part->size * sizeof(uint64_t));
		memset(part->slots, 0, part->size * sizeof(uint64_t));
		for (uint32_t i = 0; i < old.size; i++)
			if (old.slots[i] != 0)
				nonce_insert(part, old.slots[i]);
		free(old.slots);
	}
	return nonce_insert(part, nonce);
}

void
nonce_set_free(struct nonce_set *set)
{
	for (int i = 0; i < INDEX_PARTS; i++)
		free(set->parts[i].slots);
	memset(set, 0, sizeof(*set));
}

/* The slot at which a tag's search starts. */
static uint32_t
reference_place(const struct reference_part *part, uint32_t tag)
{
	return tag & (part->size - 1);
}

static void
reference_grow(struct reference_part *part)
{
	struct reference_part old = *part;

	part->size = old.size == 0 ? FIRST_SIZE : old.size * 2;
	part->slots = must_allocate(part->size * sizeof(struct reference_slot));
	memset(part->slots, 0, part->size * sizeof(struct reference_slot));
	for (uint32_t i = 0; i < old.size; i++)
	{
		uint32_t slot;

		if (old.slots[i].record == 0)
			continue;
		slot = reference_place(part, old.slots[i].tag);
		while (part->slots[slot].record != 0)
			slot = (slot + 1) & (part->size - 1);
		part->slots[slot] = old.slots[i];
	}
	free(old.slots);
}

uint32_t *
reference_map_find(struct reference_map *map, uint64_t hash,
				   reference_match match, const void *context, bool add)
{
	struct reference_part *part = &map->parts[hash % INDEX_PARTS];
	uint32_t tag = (uint32_t) (hash >> 32);
	uint32_t slot;

	if (IS_FULL(part))
	{
		if (part->size == 0 && !add)
			return NULL;
		reference_grow(part);
	}
	slot = reference_place(part, tag);
	while (part->slots[slot].record != 0)
	{
		if (part->slots[slot].tag == tag &&
			match(context, part->slots[slot].record - 1))
			return &part->slots[slot].record;
		slot = (slot + 1) & (part->size - 1);
	}
	if (!add)
		return NULL;
	part->slots[slot].tag = tag;
	part->used++;
	return &part->slots[slot].record;
}

void
reference_map_free(struct reference_map *map)
{
	for (int i = 0; i < INDEX_PARTS; i++)
		free(map->parts[i].slots);
	memset(map, 0, sizeof(*map));
}
