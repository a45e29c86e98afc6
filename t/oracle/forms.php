<?php
/*
 * forms.php: payment links and notifications, from a seed, as a PHP shop and a
 * PHP provider make them, and what PHP says of what became of them.
 *
 *	php forms.php links SEED COUNT KEY SHOP
 *		a line each: a number, the parameters as JSON, and, as JSON, what PHP
 *		makes of them: the signed text, the signature, the text of the others
 *	php forms.php check-links GIVEN RESULTS
 *	php forms.php notifications SEED COUNT KEY SHOP
 *		a line each: a number, "right" or how it was tampered with, the form,
 *		and the same as JSON and as multipart, where it can be written so
 *	php forms.php check-notifications GIVEN RESULTS KEY
 *
 * Fields of a line are separated by \x02.  The checks print {"counts", "faults"}
 * as JSON.
 *
 * PHP's own ksort, http_build_query, parse_str and md5 are the oracle; nothing
 * here is taken over from the extension.
 */

require_once __DIR__ . '/json.php';

$counts = [];
$faults = [];

function count_one(string $what): void
{
	global $counts;
	$counts[$what] = ($counts[$what] ?? 0) + 1;
}

function fault(string $text): void
{
	global $faults;
	if (count($faults) < 20)
		$faults[] = $text;
}

function report(): void
{
	global $counts, $faults;
	echo json_encode(['counts' => $counts, 'faults' => $faults],
		JSON_UNESCAPED_SLASHES | JSON_INVALID_UTF8_SUBSTITUTE | JSON_THROW_ON_ERROR), "\n";
}

function character(): string
{
	static $edges = ['&', '=', '+', '%', ' ', '[', ']', '~', '-', '_', '.', '#', '?', '/', "\\",
		'"', "'", ';', '<', "\x01", "\n", "\r", "\t", "\x7f", '%26', '%3D', "\u{80}", "\u{7ff}",
		"\u{800}", "\u{fffd}", "\u{ffff}", "\u{10000}", "\u{10ffff}", 'é', 'Чай', '日', '💰', '0'];

	return mt_rand(0, 2) ? chr(mt_rand(0x20, 0x7e)) : $edges[mt_rand(0, count($edges) - 1)];
}

function string(int $least = 0): string
{
	$out = '';
	for ($i = mt_rand($least, 12); $i > 0; $i--)
		$out .= character();
	return $out;
}

// One that is not blank: an order's number must not be.
function visible(): string
{
	do
		$out = string(1);
	while (!preg_match('/[\p{L}\p{N}]/u', $out));
	return $out;
}

/* A name that PHP takes for no number, and does not change. */
function name(): string
{
	static $first = 'abcxyzABCXYZ_', $more = 'abcxyzABCXYZ_0123456789-';
	$out = $first[mt_rand(0, strlen($first) - 1)];
	for ($i = mt_rand(0, 6); $i > 0; $i--)
		$out .= $more[mt_rand(0, strlen($more) - 1)];
	return $out;
}

/*
 * A key within an array: whatever it is, but for what ends one, and for blanks
 * in front, which parse_str drops.
 */
function key_within(): string|int
{
	return mt_rand(0, 2) ? ltrim(str_replace(['[', ']'], '', string(1)), " \r\n\t") ?: 'x' : mt_rand(0, 20);
}

function scalar(): mixed
{
	switch (mt_rand(0, 6)) {
		case 0: return mt_rand(-1000000, 1000000);
		case 1: return mt_rand(1, 100000000) / 100;
		case 2: return (bool) mt_rand(0, 1);
		case 3: return null;
		default: return string();
	}
}

function nested(int $depth): mixed
{
	if ($depth == 0 || mt_rand(0, 2) == 0)
		return scalar();
	$out = [];
	if (mt_rand(0, 1))
		for ($i = mt_rand(0, 3); $i > 0; $i--)
			$out[] = nested($depth - 1);
	else
		for ($i = mt_rand(0, 3); $i > 0; $i--)
			$out['k' . key_within()] = nested($depth - 1);
	return $out;
}

function amount(): mixed
{
	switch (mt_rand(0, 4)) {
		case 0: return mt_rand(1, 1000000000);
		case 1: return mt_rand(1, 1000000000000) / 100;
		case 2: return (float) mt_rand(1, 1000000);
		case 3: return sprintf('%d.%02d', mt_rand(1, 1000000), mt_rand(0, 99));
		default: return (string) mt_rand(1, 1000000);
	}
}

/*
 * The fields as multipart/form-data, within a JSON string; empty if a name has
 * characters that programs write there in different ways.
 */
function multipart(array $fields): string
{
	$boundary = str_repeat('-', mt_rand(0, 24)) . bin2hex(chr(mt_rand(0, 255)) . pack('N', mt_rand()));
	$out = '';
	foreach (explode('&', http_build_query($fields)) as $pair) {
		[$name, $value] = array_map('urldecode', explode('=', $pair, 2));
		if (preg_match('/["%\\\\]|[^ -~]/', $name))
			return '';
		$out .= "--$boundary\r\nContent-Disposition: form-data; name=\"$name\"\r\n"
			. (mt_rand(0, 1) ? "Content-Type: text/plain; charset=UTF-8\r\n" : '') . "\r\n$value\r\n";
	}
	return json_encode("$out--$boundary--" . (mt_rand(0, 1) ? "\r\n" : ''), JSON_THROW_ON_ERROR);
}

function lines(string $file): Generator
{
	$handle = fopen($file, 'rb');
	while (($line = fgets($handle)) !== false)
		yield explode("\x02", rtrim($line, "\n"));
}

/* JSON, in which 100.0 keeps its point, as PostgreSQL's numeric(12,2) does. */
function json(mixed $value): string
{
	return json_encode($value, JSON_THROW_ON_ERROR | (mt_rand(0, 1) ? JSON_PRESERVE_ZERO_FRACTION : 0));
}

switch ($argv[1]) {
	case 'links':
		mt_srand((int) $argv[2]);
		for ($n = 1; $n <= (int) $argv[3]; $n++) {
			$signed = ['amount' => amount(), 'currency' => ['RUB', 'USD', 'EUR'][mt_rand(0, 2)],
				'order_id' => mt_rand(0, 1) ? mt_rand(1, 1000000) : visible(), 'shop_id' => $argv[5]];
			if (mt_rand(0, 3) == 0)
				$signed['test'] = [0, 1, '0', '1', true, false][mt_rand(0, 5)];
			/* no shop signs test=0 */
			$flag = array_intersect_key($signed, ['test' => 0]);
			if (!($signed['test'] ?? true))
				unset($signed['test']);
			$other = [];
			if (mt_rand(0, 1))
				$other['lang'] = ['ru', 'en'][mt_rand(0, 1)];
			if (mt_rand(0, 1))
				$other['payment_system'] = mt_rand(0, 1) ? mt_rand(1, 100) : (string) mt_rand(1, 100);
			foreach (['success_url', 'fail_url', 'notify_url'] as $name)
				if (mt_rand(0, 2) == 0)
					$other[$name] = 'https://shop.example/?' .
						str_replace(["\x01", "\n", "\r", "\t", "\x7f", ' '], '', string());
			if (mt_rand(0, 1))
				$other['fields'] = ['email' => string(), 'k' . string() => nested(2)];
			if (mt_rand(0, 1))
				/* it must add up to the amount: all but the first item are presents */
				$other['receipt'] = ['items' => array_map(fn ($i) => ['name' => string(1),
					'count' => $i == 1 ? 1 : mt_rand(1, 9), 'price' => $i == 1 ? $signed['amount'] : 0],
					range(1, mt_rand(1, 4)))];
			$text = (function ($fields) { ksort($fields); return http_build_query($fields); })($signed);
			$params = $signed + $other + $flag;
			uksort($params, fn () => mt_rand(-1, 1));
			echo $n, "\x02", json($params), "\x02",
				json_encode([$text, md5($text . $argv[4]), http_build_query($other)], JSON_THROW_ON_ERROR), "\n";
		}
		break;

	case 'check-links':
		$given = [];
		foreach (lines($argv[2]) as [$n, $params, $expected])
			$given[$n] = [$params, json_decode($expected, true, 512, JSON_THROW_ON_ERROR)];
		foreach (lines($argv[3]) as [$line]) {
			$result = json_decode($line, true, 512, JSON_THROW_ON_ERROR);
			[$params, [$text, $sign, $other]] = $given[$result['id']];
			unset($given[$result['id']]);
			count_one('links');
			if (!str_starts_with($result['url'] ?? '', "https://tegro.money/pay/?$text&")) {
				fault("$params: signed as $text, the link is " . json_encode($result));
				continue;
			}
			/* byte by byte, but for the order, which jsonb does not keep */
			$pairs = explode('&', substr($result['url'], strlen("https://tegro.money/pay/?$text&")));
			if (array_pop($pairs) !== "sign=$sign")
				fault("$params: the signature is not $sign: {$result['url']}");
			$wanted = $other === '' ? [] : explode('&', $other);
			sort($pairs, SORT_STRING);
			sort($wanted, SORT_STRING);
			if ($pairs !== $wanted)
				fault("$params: the other fields are not $other: {$result['url']}");
			if ($wanted)
				count_one('with other fields');
		}
		if ($given)
			fault(count($given) . ' are missing');
		report();
		break;

	case 'notifications':
		mt_srand((int) $argv[2]);
		for ($n = 1; $n <= (int) $argv[3]; $n++) {
			$fields = ['shop_id' => $argv[5], 'amount' => sprintf('%d.%02d', mt_rand(1, 100000), mt_rand(0, 99)),
				'order_id' => string(1), 'payment_system' => (string) mt_rand(1, 99), 'currency' => 'RUB'];
			if (mt_rand(0, 1))
				$fields['status'] = (string) mt_rand(0, 3);
			if (mt_rand(0, 1))
				$fields['payment_id'] = (string) mt_rand(1, 1000000);
			if (mt_rand(0, 9) == 0)
				$fields['test'] = '1';
			for ($i = mt_rand(0, 4); $i > 0; $i--)
				if (!isset($fields[$name = name()]))
					$fields[$name] = string();
			$flat = mt_rand(0, 3) > 0;
			if (!$flat)
				for ($i = mt_rand(1, 2); $i > 0; $i--)
					if (!isset($fields[$name = name()]))
						$fields[$name] = [key_within() => string(), 'b' . key_within() => [string(), string()]];
			uksort($fields, fn () => mt_rand(-1, 1));
			$signed = $fields;
			ksort($signed);
			$fields['sign'] = md5(http_build_query($signed) . $argv[4]);
			$kind = 'right';
			$names = array_keys(array_filter($fields, 'is_string'));
			$one = $names[mt_rand(0, count($names) - 1)];
			$two = $names[mt_rand(0, count($names) - 1)];
			if (mt_rand(0, 1))
				switch (mt_rand(0, 8)) {
					case 0:
						$kind = 'changed';
						$fields[$one] .= character();
						break;
					case 1:
						$kind = 'removed';
						unset($fields[$one]);
						break;
					case 2:
						$kind = 'added';
						$fields['zz' . name()] = string();
						break;
					case 3:
						$kind = 'exchanged';
						[$fields[$one], $fields[$two]] = [$fields[$two], $fields[$one]];
						break;
					case 4:
						/* a field within the value of another */
						$kind = 'swallowed';
						$fields[$one] .= "&$two=" . $fields[$two];
						if ($one !== $two)
							unset($fields[$two]);
						break;
					case 5:
						$kind = 'renamed';
						$value = $fields[$one];
						unset($fields[$one]);
						$fields[name()] = $value;
						break;
					case 6:
						$kind = 'amount raised';
						$fields['amount'] .= '0';
						break;
					case 7:
						/* what every customer has: a link's fields */
						$kind = 'link';
						$fields = array_intersect_key($fields, array_flip(['shop_id', 'amount', 'order_id', 'currency']));
						ksort($fields);
						$fields['sign'] = md5(http_build_query($fields) . $argv[4]);
						break;
					default:
						$kind = 'shifted';
						$fields['order_id'] = substr($fields['amount'], -1) . $fields['order_id'];
						$fields['amount'] = substr($fields['amount'], 0, -1);
				}
			$flat = $flat && !array_filter($fields, 'is_array');
			$form = http_build_query($fields);
			/* the same in other words: what needs no escape has one */
			if (mt_rand(0, 1))
				$form = preg_replace_callback('/(?<![%0-9A-F])[a-z](?=[^=]*(&|$))/', fn ($m) =>
					mt_rand(0, 3) ? $m[0] : sprintf(mt_rand(0, 1) ? '%%%02x' : '%%%02X', ord($m[0])), $form);
			if (mt_rand(0, 1))
				$form = str_replace('+', '%20', $form);
			echo $n, "\x02", $kind, "\x02", $form, "\x02", $flat ? json_encode($fields, JSON_THROW_ON_ERROR) : '',
				"\x02", multipart($fields), "\n";
		}
		break;

	case 'check-notifications':
		$given = [];
		foreach (lines($argv[2]) as [$n, $kind, $form, $json, $multipart])
			$given[$n] = [$kind, $form, $json, $multipart];
		foreach (lines($argv[3]) as [$line]) {
			$result = json_decode($line, true, 512, JSON_THROW_ON_ERROR);
			[$kind, $form, $json, $multipart] = $given[$result['id']];
			unset($given[$result['id']]);
			/* what a shop in PHP would say */
			parse_str($form, $fields);
			$sign = $fields['sign'] ?? '';
			unset($fields['sign']);
			ksort($fields);
			$right = md5(http_build_query($fields) . $argv[4]) === $sign;
			count_one('notifications');
			count_one($kind);
			count_one($result['text'] ? 'accepted' : 'refused');
			if ($kind === 'right' && !($right && $result['text']))
				fault("right, but " . ($right ? 'we' : 'PHP') . " refused it: $form");
			if ($result['text'] && !$right)
				fault("$kind: accepted, but not by PHP: $form");
			if ($right && !$result['text'])
				count_one('refused by us alone');
			if ($json !== '') {
				count_one('as JSON');
				if ($result['json'] !== $result['text'])
					fault("as JSON it is " . json_encode($result['json']) . ": $json");
			}
			if ($multipart !== '') {
				count_one('as multipart');
				if ($result['multipart'] !== $result['text'])
					fault("as multipart it is " . json_encode($result['multipart']) . ": $multipart");
			}
		}
		if ($given)
			fault(count($given) . ' are missing');
		report();
		break;

	default:
		throw new Exception("don't know {$argv[1]}");
}
