<?php
/*
 * generate.php: parameters of calls, a line each, from a seed.
 *
 *	php generate.php SEED COUNT
 *
 * A line has four fields, separated by \x02: a number, the method, "marked" or
 * "plain", and the parameters, JSON text.  JSON writes control characters as
 * escapes, so the separator is in none of them.
 *
 * "marked" are parameters with an object somewhere that PHP's arrays can't
 * tell from a list: an empty one, or one whose keys are 0, 1, 2...
 *
 * The text is put together here and not by json_encode, which would write only
 * what json_encode writes.
 */

require_once __DIR__ . '/numbers.php';

$marked = false;

function random_character(): int
{
	static $edges = [0x01, 0x08, 0x09, 0x0a, 0x0c, 0x0d, 0x1b, 0x1f, 0x20, 0x22, 0x27, 0x2f,
		0x5c, 0x7e, 0x7f, 0x80, 0x85, 0x9f, 0xa0, 0xad, 0x7ff, 0x800, 0x2028, 0x2029, 0xd7ff,
		0xe000, 0xfeff, 0xfffd, 0xfffe, 0xffff, 0x10000, 0x1f4b0, 0x1ffff, 0x20000, 0x10fffe,
		0x10ffff];

	switch (mt_rand(0, 6)) {
		case 0:
			return $edges[mt_rand(0, count($edges) - 1)];
		case 1:
			return mt_rand(0x01, 0x1f);
		case 2:
			return mt_rand(0x400, 0x4ff);
		case 3:
			do
				$c = mt_rand(0x80, 0xffff);
			while ($c >= 0xd800 && $c <= 0xdfff);
			return $c;
		case 4:
			return mt_rand(0x10000, 0x10ffff);
		default:
			return mt_rand(0x20, 0x7e);
	}
}

function utf8(int $c): string
{
	if ($c < 0x80)
		return chr($c);
	if ($c < 0x800)
		return chr(0xc0 | $c >> 6) . chr(0x80 | $c & 0x3f);
	if ($c < 0x10000)
		return chr(0xe0 | $c >> 12) . chr(0x80 | $c >> 6 & 0x3f) . chr(0x80 | $c & 0x3f);
	return chr(0xf0 | $c >> 18) . chr(0x80 | $c >> 12 & 0x3f) . chr(0x80 | $c >> 6 & 0x3f) .
		chr(0x80 | $c & 0x3f);
}

/* A character as JSON text, in one of the ways that it may be written. */
function json_character(int $c): string
{
	static $short = [0x08 => '\b', 0x09 => '\t', 0x0a => '\n', 0x0c => '\f', 0x0d => '\r',
		0x22 => '\"', 0x2f => '\/', 0x5c => '\\\\'];
	$format = mt_rand(0, 1) ? '\u%04x' : '\u%04X';

	if (isset($short[$c]) && mt_rand(0, 1))
		return $short[$c];
	if ($c < 0x20 || $c == 0x22 || $c == 0x5c || mt_rand(0, 3) == 0) {
		if ($c >= 0x10000)
			return sprintf($format . $format, 0xd800 + ($c - 0x10000 >> 10),
				0xdc00 + ($c - 0x10000 & 0x3ff));
		return sprintf($format, $c);
	}
	return utf8($c);
}

function string_text(int $least = 0): string
{
	static $fixed = ['', '0', '1', '-1', 'null', '100.00', 'a/b', '</script>', "'; --", '"',
		'\\', '\u0000'];
	$out = '';

	if ($least == 0 && mt_rand(0, 4) == 0) {
		foreach (str_split($fixed[mt_rand(0, count($fixed) - 1)]) as $byte)
			if ($byte !== '')
				$out .= json_character(ord($byte));
		return '"' . $out . '"';
	}
	for ($i = mt_rand($least, 12); $i > 0; $i--)
		$out .= json_character(random_character());
	return '"' . $out . '"';
}

function white(): string
{
	return mt_rand(0, 9) ? '' : str_repeat([' ', "\t"][mt_rand(0, 1)], mt_rand(1, 2));
}

function value_text(int $depth): string
{
	global $marked;

	switch ($depth > 0 ? mt_rand(0, 9) : mt_rand(0, 5)) {
		case 0:
			return ['true', 'false', 'null'][mt_rand(0, 2)];
		case 1:
		case 2:
			return mt_rand(0, 9) ? plain_number() : hard_number();
		case 3:
		case 4:
		case 5:
			return string_text();
		case 6:
		case 7:
			$items = [];
			for ($i = mt_rand(0, 4); $i > 0; $i--)
				$items[] = white() . value_text($depth - 1) . white();
			return '[' . implode(',', $items) . ']';
		default:
			$members = [];
			if (mt_rand(0, 19) == 0) {
				/* 0, 1, 2...: as a list would be */
				for ($i = mt_rand(0, 12); $i > 0; $i--)
					$members['"' . ($i - 1) . '"'] = value_text($depth - 1);
				$marked = true;
			} else {
				for ($i = mt_rand(1, 4); $i > 0; $i--) {
					$key = mt_rand(0, 9) ? string_text() : '"' . mt_rand(-2, 3) . '"';
					/* one key may be written in several ways: no key twice */
					$members['"' . substr(json_encode(json_decode($key)), 1, -1) . '"'] =
						value_text($depth - 1);
				}
				$keys = array_map('json_decode', array_map('strval', array_keys($members)));
				sort($keys, SORT_STRING);
				$list = array_map('strval', range(0, count($keys) - 1));
				sort($list, SORT_STRING);
				if ($keys === $list)
					$marked = true;
			}
			foreach ($members as $key => &$member)
				$member = white() . $key . white() . ':' . white() . $member;
			unset($member);
			return '{' . implode(',', $members) . '}';
	}
}

// A string that is not blank: those are refused, for an order's number, say.
function visible_text(): string
{
	do {
		$text = string_text(1);
	} while (!preg_match('/[\p{L}\p{N}]/u', (string) json_decode($text)));
	return $text;
}

mt_srand((int) $argv[1]);
for ($n = 1; $n <= (int) $argv[2]; $n++) {
	$marked = false;
	$method = mt_rand(0, 1) ? 'createOrder' : 'unknownMethod';
	$members = [];
	$used = array_fill_keys(['nonce', 'shop_id', 'order_id', 'currency', 'amount', 'receipt'], true);
	if (mt_rand(0, 3) == 0)
		$members[] = '"shop_id":' . string_text(1);
	if ($method == 'createOrder' || mt_rand(0, 1))
		$members[] = '"order_id":' . (mt_rand(0, 1) ? visible_text() : mt_rand(1, 1000000));
	if ($method == 'createOrder')
		array_push($members, '"currency":' . visible_text(), '"amount":' . mt_rand(1, 1000000) / 100);
	for ($i = mt_rand(0, 5); $i > 0; $i--) {
		$key = string_text();
		if (isset($used['k' . json_decode($key)]) || isset($used[json_decode($key)]))
			continue;
		$used['k' . json_decode($key)] = true;
		$members[] = white() . $key . white() . ':' . white() . value_text(mt_rand(0, 5));
	}
	shuffle($members);
	echo $n, "\x02", $method, "\x02", $marked ? 'marked' : 'plain', "\x02",
		'{', implode(',', $members), "}\n";
}
