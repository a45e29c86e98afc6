<?php
/*
 * check.php: does PHP agree with what the extension made of parameters?
 *
 *	php check.php params PARAMS RESULTS
 *	php check.php numbers RESULTS
 *	php check.php journal JOURNAL PREVIEWS KEY
 *
 * Prints a JSON object: "counts", and "faults", a sentence for each case in
 * which it does not (the first twenty; "counts" has them all).
 *
 * params: PARAMS is from generate.php; RESULTS has a JSON object a line, with
 * "id", and "body", or "state", "message" and "hint".
 *
 * numbers: RESULTS has lines "NUMBER\x02OUTCOME\x02TEXT", OUTCOME "ok" or
 * "loses".
 *
 * journal: JOURNAL is the sandbox's, with what arrived; PREVIEWS has a JSON
 * object a line, with "method" and "body".  A preview and the request have each
 * a nonce of its own, which is left out of the comparison.
 */

require_once __DIR__ . '/json.php';

$counts = ['faults' => 0];
$faults = [];

function count_one(string $what): void
{
	global $counts;

	$counts[$what] = ($counts[$what] ?? 0) + 1;
}

function fault(string $sentence): void
{
	global $faults;

	count_one('faults');
	if (count($faults) < 20)
		$faults[] = $sentence;
}

/* Lines of a file, taken apart at \x02. */
function lines(string $file): array
{
	return array_map(fn ($line) => explode("\x02", $line),
		file($file, FILE_IGNORE_NEW_LINES | FILE_SKIP_EMPTY_LINES));
}

/* The objects of a file that has one a line. */
function objects(string $file): array
{
	return array_map(fn ($line) => json_decode($line, true, 512, JSON_THROW_ON_ERROR),
		file($file, FILE_IGNORE_NEW_LINES | FILE_SKIP_EMPTY_LINES));
}

/* What a body begins with: the nonce, as the extension writes it. */
const NONCE = '/^\{"nonce":([1-9][0-9]{15})(?=,)/D';

function check_accepted(array $result, bool $marked, string $params): void
{
	$id = $result['id'];
	$body = $result['body'];

	count_one('accepted');

	/* with objects kept apart from arrays it holds for all bodies */
	$again = json_encode(json_decode($body));
	if ($again !== $body)
		fault("params $id: PHP makes $again of $body");
	if ($marked)
		count_one('marked, which PHP has no array for');
	else {
		$again = json_encode(json_decode($body, true));
		if ($again !== $body)
			fault("params $id: PHP makes $again of $body");
		count_one('fixed points');
	}

	if (!str_contains(substr($body, 0, 40), '"shop_id"'))
		fault("params $id: no shop_id in $body");
	if (!preg_match(NONCE, $body, $part)) {
		fault("params $id: no nonce at the start of $body");
		return;
	}
	/* what the extension added is not in the parameters */
	$sent = json_decode($params);
	$params = preg_replace('/^\{(?!\s*\})/', "{\"nonce\":$part[1],", $params, 1, $given);
	if ($given == 0)
		$params = "{\"nonce\":$part[1]}";
	if (!isset($sent->shop_id))
		$params = preg_replace('/^\{/', '{"shop_id":"the-shop",', $params);
	if (meaning($params) !== meaning($body))
		fault("params $id: $body does not say what $params says");
}

function check_refused(array $result, string $params): void
{
	$id = $result['id'];

	if ($result['state'] !== '22023' ||
		!preg_match('/^number (-?[0-9.]*[0-9])(\.\.\.)? would lose digits$/D', $result['message'], $part)) {
		fault("params $id: {$result['state']} {$result['message']} for $params");
		return;
	}
	count_one('refused, since PHP would change the value of a number');
	$numbers = numbers_in($params);
	if (!array_filter($numbers, 'php_changes'))
		fault("params $id: {$result['message']}, but PHP keeps all of $params");
	if (isset($part[2]))
		return;
	if (!php_changes($part[1]))
		fault("params $id: {$result['message']}, but PHP keeps it");
	if (!in_array(canonical_number($part[1]), array_map('canonical_number', $numbers), true))
		fault("params $id: {$part[1]} is not in $params");
	if (!str_contains($result['hint'], "\"{$part[1]}\""))
		fault("params $id: the hint is {$result['hint']}");
}

switch ($argv[1]) {
	case 'params':
		$results = [];
		foreach (objects($argv[3]) as $result)
			$results[$result['id']] = $result;
		foreach (lines($argv[2]) as [$id, , $kind, $params]) {
			count_one('all');
			if (!isset($results[$id]))
				fault("params $id: no result");
			elseif (isset($results[$id]['body']))
				check_accepted($results[$id], $kind === 'marked', $params);
			else
				check_refused($results[$id], $params);
		}
		break;

	case 'numbers':
		foreach (lines($argv[2]) as [$number, $outcome, $text]) {
			count_one($outcome);
			if ($outcome === 'ok') {
				$again = json_encode(json_decode($text, true));
				if ($again !== $text)
					fault("$number became $text, of which PHP makes $again");
				if (canonical_number($number) !== canonical_number($text))
					fault("$number became $text");
			} elseif ($outcome !== 'loses')
				fault("$number: $outcome");
			elseif (!php_changes($number))
				fault("$number was refused, but PHP keeps it");
		}
		break;

	case 'journal':
		$sent = objects($argv[2]);
		foreach ($sent as $request) {
			count_one('requests');
			if ($request['authorization'] !== 'Bearer ' . hash_hmac('sha256', $request['body'], $argv[4]))
				fault("{$request['authorization']} is not the signature of {$request['body']}");
		}
		$show = fn ($request) => $request['method'] . ' ' . preg_replace(NONCE, '{"nonce":...', $request['body']);
		$sent = array_map($show, $sent);
		$shown = array_map($show, objects($argv[3]));
		sort($sent);
		sort($shown);
		foreach (array_diff($shown, $sent) as $request)
			fault("previewed, not sent: $request");
		foreach (array_diff($sent, $shown) as $request)
			fault("sent, not previewed: $request");
		if (count($sent) !== count($shown))
			fault(count($sent) . ' were sent, ' . count($shown) . ' previewed');
		break;

	default:
		throw new Exception("don't know {$argv[1]}");
}

echo json_encode(['counts' => $counts, 'faults' => $faults],
	JSON_UNESCAPED_SLASHES | JSON_INVALID_UTF8_SUBSTITUTE | JSON_THROW_ON_ERROR), "\n";
