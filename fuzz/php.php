<?php
/*
 * php.php: says of each text that src/format/body.c was given whether PHP agrees with
 * what became of it.
 *
 * Reads, for each, a line "STATUS LENGTH LENGTH FAULT FAULT_LENGTH", then the
 * text and what was made of it; writes "fine", or a sentence, on a line.
 * The numbers of the statuses are those of TegroBodyStatus in src/format/body.h.
 */

require_once __DIR__ . '/../t/oracle/json.php';

/*
 * Is it JSON as PostgreSQL writes a jsonb?  Other escapes, NULs and keys that
 * come twice never reach body.c.
 */
function is_written(string $json): bool
{
	if (preg_match('/[\x00-\x1f]/', $json) || json_decode($json) === null && trim($json, ' ') !== 'null')
		return false;
	preg_match_all('/"((?:[^"\\\\]++|\\\\.)*+)"(\s*:)?/s', $json, $found, PREG_SET_ORDER);
	$keys = 0;
	foreach ($found as $string) {
		if (!preg_match('~^(?:[^\\\\]|\\\\(?:["\\\\bfnrt]|u00(?!00|08|09|0a|0c|0d)[01][0-9a-f]))*+$~sD', $string[1]))
			return false;
		$keys += isset($string[2]);
	}
	return count_keys(json_decode($json)) === $keys;
}

function count_keys(mixed $value): int
{
	$keys = 0;
	if (is_object($value) || is_array($value))
		foreach ($value as $key => $member)
			$keys += is_object($value) + count_keys($member);
	return $keys;
}

/* Is there an object that PHP's arrays can't tell from a list? */
function is_marked(mixed $value): bool
{
	if (is_object($value) && array_is_list((array) $value))
		return true;
	if (is_object($value) || is_array($value))
		foreach ($value as $member)
			if (is_marked($member))
				return true;
	return false;
}

function judge(int $status, string $json, string $out, string $fault): string
{
	/* 2: too deep */
	if ($status === 2)
		return json_decode($json, true, 511) === null ? 'fine' : 'PHP does not find it too deep';
	if (!is_written($json))
		return 'fine';
	if ($status === 1)
		return php_changes($fault) ? 'fine' : "refused $fault, which PHP keeps, in $json";
	if ($status !== 0)
		return "refused with status $status, and PHP does not: $json";
	$again = json_encode(json_decode($out));
	if ($again !== $out)
		return "PHP makes $again of $out, from $json";
	$again = json_encode(json_decode($out, true));
	if ($again !== $out && !is_marked(json_decode($out)))
		return "PHP makes $again of $out, in arrays, from $json";
	if (meaning($json) !== meaning($out))
		return "$out does not say what $json says";
	return 'fine';
}

function read_bytes(int $count): string
{
	$bytes = '';
	while (strlen($bytes) < $count) {
		$more = fread(STDIN, $count - strlen($bytes));
		if ($more === false || $more === '')
			exit(1);
		$bytes .= $more;
	}
	return $bytes;
}

while (($line = fgets(STDIN)) !== false) {
	[$status, $json_len, $out_len, $at, $fault_len] = array_map('intval', explode(' ', $line));
	$json = read_bytes($json_len);
	$out = read_bytes($out_len);
	try {
		$verdict = judge($status, $json, $out, substr($json, $at, $fault_len));
	} catch (Throwable $error) {
		$verdict = $error->getMessage() . " over $json and $out";
	}
	fwrite(STDOUT, str_replace("\n", '\n', $verdict) . "\n");
}
