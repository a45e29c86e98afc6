/*-------------------------------------------------------------------------
 *
 * answer.h
 *		The provider's answer, from bytes to an envelope.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_ANSWER_H
#define TEGRO_ANSWER_H

#include "utils/jsonb.h"

typedef enum TegroAnswerKind
{
	TEGRO_ANSWER_SUCCESS,	/* "type" is "success", and there is "data" */
	TEGRO_ANSWER_REFUSAL,	/* "type" is anything else */
	TEGRO_ANSWER_UNREADABLE /* no envelope */
} TegroAnswerKind;

typedef struct TegroAnswer
{
	TegroAnswerKind kind;
	Jsonb *envelope; /* the whole answer; NULL if unreadable */
	char *desc;		 /* "desc" of a refusal, "" if there is none */
	const char *why; /* a sentence that says why it is unreadable */
	bool no_data;	 /* "data" of a success is null, false, {} or [] */
} TegroAnswer;

/*
 * Reads an answer.
 *
 * bytes, len: the answer's body, whatever it is; a NUL stands at bytes[len].
 * answer: receives what it is; its parts are in the current memory context.
 *
 * Never throws for anything that the bytes hold; only where memory runs out
 * or the session is asked to stop.
 */
extern void tegro_answer_read(const char *bytes, size_t len,
							  TegroAnswer *answer);

#endif /* TEGRO_ANSWER_H */
