/*-------------------------------------------------------------------------
 *
 * method.h
 *		The provider's methods, and the effect of each.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEGRO_METHOD_H
#define TEGRO_METHOD_H

/* What a method does, which decides when it may be sent again. */
typedef enum TegroEffect
{
	TEGRO_READS,		 /* nothing: may be repeated */
	TEGRO_ORDERS,		 /* makes a payment order */
	TEGRO_PAYS_OUT,		 /* sends money away */
	TEGRO_UNKNOWN_EFFECT /* unknown to this version: as if it did */
} TegroEffect;

typedef struct TegroMethod
{
	const char *name; /* as in the URL */
	TegroEffect effect;
	const char *reference; /* parameter that names what is asked for in the
							* shop's own terms; NULL if none */
	const char *lookup;	   /* SQL function that finds it; NULL if none */
	bool finds_one;		   /* asks for one thing, which may not exist */
} TegroMethod;

/*
 * The provider's method of that name.  Throws 22023 if no method can have the
 * name; a method that this version does not know is palloc'd.
 */
extern const TegroMethod *tegro_method_find(const char *name);

/* The effect of a method; throws as tegro_method_find() does. */
extern TegroEffect tegro_method_effect(const char *name);

/*
 * The number under which a method is counted (stats.h): unknown methods share
 * the last one.  Then the name for a number, NULL if there is none.
 */
extern int tegro_method_number(const TegroMethod *method);
extern const char *tegro_method_name(int number);

#endif /* TEGRO_METHOD_H */
