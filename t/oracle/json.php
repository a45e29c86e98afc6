<?php
/*
 * json.php: what the scripts of the oracle share.
 *
 * PHP is the oracle for what a request body must look like, so nothing here
 * is taken over from the extension: numbers are compared as exact decimals,
 * by their digits, and everything else is PHP's own json_decode, json_encode.
 */

error_reporting(E_ALL);
set_error_handler(function ($level, $message, $file, $line) {
	throw new ErrorException($message, 0, $level, $file, $line);
});
ini_set('display_errors', 'stderr');
ini_set('serialize_precision', '-1');
ini_set('memory_limit', '1G');

/* A string of JSON, or a number. */
const STRING_OR_NUMBER =
	'/"(?:[^"\\\\]++|\\\\.)*+"|-?[0-9]++(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?/s';

/*
 * The value of a JSON number, in one way of writing: "-125e-2" and "-1.25" are
 * both "-125e-2".  No digit is lost, however many there are.
 */
function canonical_number(string $text): string
{
	if (!preg_match('/^(-?)([0-9]+)(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]+))?$/D', $text, $part))
		throw new Exception("not a number: $text");
	$fraction = $part[3] ?? '';
	$digits = ltrim($part[2] . $fraction, '0');
	$exponent = (int) ($part[4] ?? 0) - strlen($fraction);
	$stripped = rtrim($digits, '0');
	if ($stripped === '')
		return '0';
	return $part[1] . $stripped . 'e' . ($exponent + strlen($digits) - strlen($stripped));
}

/* The numbers that JSON text holds, as they are written. */
function numbers_in(string $json): array
{
	preg_match_all(STRING_OR_NUMBER, $json, $found);
	return array_values(array_filter($found[0], fn ($token) => $token[0] !== '"'));
}

/* Does PHP make another value of a number when it decodes and encodes it? */
function php_changes(string $number): bool
{
	/* infinity can't be encoded at all */
	$encoded = json_encode(json_decode($number));
	return $encoded === false || canonical_number($encoded) !== canonical_number($number);
}

function canonical_value($value): string
{
	if (is_object($value)) {
		$members = [];
		foreach (get_object_vars($value) as $key => $member)
			$members[(string) $key] = canonical_value($member);
		ksort($members, SORT_STRING);
		$out = '';
		foreach ($members as $key => $member)
			$out .= strlen($key) . ':' . $key . '=' . $member . ',';
		return '{' . $out . '}';
	}
	if (is_array($value))
		return '[' . implode(',', array_map('canonical_value', $value)) . ']';
	if (is_string($value))
		return strlen($value) . ':' . $value;
	return var_export($value, true);
}

/*
 * What JSON text says, in one way of writing: members in one order, escapes
 * resolved, numbers exact.  Two texts say the same if these are equal.
 */
function meaning(string $json): string
{
	/* numbers become strings before PHP can round them; "n" and "s" tell which
	 * were which, in keys too */
	$marked = preg_replace_callback(STRING_OR_NUMBER, function ($token) {
		return $token[0][0] === '"' ? '"s' . substr($token[0], 1) :
			'"n' . canonical_number($token[0]) . '"';
	}, $json);
	return canonical_value(json_decode($marked, false, 2000, JSON_THROW_ON_ERROR));
}
