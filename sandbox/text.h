/*
 * text.h
 *		Growing byte buffers, and the ways in which the sandbox writes into them.
 */
#ifndef TEXT_H
#define TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Zero-initialised is empty.  data may be NULL while length is 0. */
struct text
{
	char *data;
	size_t length;
	size_t capacity;
};

/* Makes room for `more` further bytes. Ends the program when out of memory. */
void text_reserve(struct text *text, size_t more);

/* Appends bytes, whatever they are. */
void text_append(struct text *text, const void *bytes, size_t length);

/* Appends a NUL-terminated string as it is. */
void text_string(struct text *text, const char *string);

/* Appends one byte. */
void text_byte(struct text *text, char byte);

/* Appends a decimal integer. */
void text_integer(struct text *text, int64_t value);

/*
 * Appends a JSON string, quotes included, exactly as PHP's json_encode writes
 * it: "/" as "\/", everything beyond ASCII as lower-case \uXXXX.  Appends
 * nothing and returns false where the bytes are not valid UTF-8.
 */
bool text_json(struct text *text, const char *bytes, size_t length);

/*
 * The same for bytes of any kind: where they are not valid UTF-8, every byte
 * beyond ASCII is written as the character of that number.
 */
void text_json_any(struct text *text, const char *bytes, size_t length);

/* Appends bytes as base64. */
void text_base64(struct text *text, const char *bytes, size_t length);

/* Appends bytes percent-encoded as PHP's urlencode does (a space is "+"). */
void text_form(struct text *text, const char *bytes, size_t length);

/* Appends "YYYY-MM-DD HH:MM:SS" in UTC. */
void text_timestamp(struct text *text, int64_t seconds);

/* Frees the buffer and makes it empty. */
void text_free(struct text *text);

/* malloc and realloc that end the program instead of returning NULL. */
void *must_allocate(size_t size);
void *must_reallocate(void *memory, size_t size);

#endif
