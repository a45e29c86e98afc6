<?php
/*
 * numbers.php: JSON numbers of all shapes, from mt_rand().
 *
 *	php numbers.php SEED COUNT		writes numbers, one a line
 *
 * The shapes are those at which a writer of numbers goes wrong: the ends of
 * 64-bit integers, as many digits as a double just holds and one more, powers
 * of two (where doubles lie twice as far apart above as below), the places
 * where PHP begins to write an exponent, and the ends of the doubles.
 */

require_once __DIR__ . '/json.php';

function digits(int $count): string
{
	$out = (string) mt_rand(1, 9);
	while (strlen($out) < $count)
		$out .= (string) mt_rand(0, 9);
	return $out;
}

/* 2^n, for n >= 0, or 0.5^-n, all its digits. */
function power_of_two(int $n): string
{
	/* the digits of 2^i and 5^i, the last first, each from the one before */
	static $powers = [2 => [[1]], 5 => [[1]]];
	$base = $n < 0 ? 5 : 2;

	for ($i = count($powers[$base]); $i <= abs($n); $i++) {
		$digits = $powers[$base][$i - 1];
		$carry = 0;
		foreach ($digits as &$digit) {
			$digit = $digit * $base + $carry;
			$carry = intdiv($digit, 10);
			$digit %= 10;
		}
		unset($digit);
		if ($carry > 0)
			$digits[] = $carry;
		$powers[$base][$i] = $digits;
	}
	$text = implode('', array_reverse($powers[$base][abs($n)]));
	return $n < 0 ? '0.' . str_pad($text, -$n, '0', STR_PAD_LEFT) : $text;
}

/* A double out of random bits: every exponent as likely as any other. */
function random_double(): float
{
	do {
		$bits = pack('V2', mt_rand(0, 0xffff) << 16 | mt_rand(0, 0xffff),
			mt_rand(0, 0x7fff) << 16 | mt_rand(0, 0xffff));
		$double = unpack('e', $bits)[1];
	} while (!is_finite($double));
	return $double;
}

/* The double a few steps above or below, of a positive one. */
function neighbour(float $double, int $steps): float
{
	return unpack('e', pack('P', unpack('P', pack('e', $double))[1] + $steps))[1];
}

/* A number that PHP certainly keeps, as shops write them. */
function plain_number(): string
{
	static $fixed = ['0', '-0', '0.0', '-0.00', '1', '-1', '10', '100.00', '1200.10',
		'0.1', '0.00001', '0.0001', '0.00010', '1e-5', '1.5E3', '1e+2', '1e25', '1.0e25',
		'9223372036854775807', '-9223372036854775808', '-9223372036854775807',
		'9007199254740992', '9007199254740993', '4503599627370497.5',
		'99999999999999.99', '0.30000000000000004', '1.7976931348623157e308',
		'1e15', '1e16', '1e17', '1e18', '123456789012345000000', '0.10000000000000000000',
		'1.50000000000000000000000000000000', '100000000000000000000000', '2.5e-8'];

	switch (mt_rand(0, 7)) {
		case 0:
			return $fixed[mt_rand(0, count($fixed) - 1)];
		case 1:
			return (mt_rand(0, 3) == 0 ? '-' : '') . digits(mt_rand(1, 18));
		case 2:
			return digits(mt_rand(1, 3)) . '.' . sprintf('%02d', mt_rand(0, 99));
		case 3:
			/* 15 digits always survive */
			$whole = mt_rand(1, 14);
			return digits($whole) . '.' . digits(mt_rand(1, 15 - $whole));
		case 4:
			return digits(mt_rand(1, 15)) . 'e' . mt_rand(-250, 250);
		case 5:
			return '0.' . str_repeat('0', mt_rand(0, 12)) . digits(mt_rand(1, 15));
		case 6:
			return json_encode(random_double());
		default:
			return (string) mt_rand(0, 1000000);
	}
}

/* A number of which PHP may lose something, and about half the time does. */
function hard_number(): string
{
	static $fixed = ['9223372036854775808', '-9223372036854775809', '9223372036854775807.0',
		'9223372036854775808.0', '18446744073709551615', '18446744073709551616',
		'9007199254740993.0', '1e400', '-1e400', '1e-400', '5e-324', '4.9e-324', '3e-324',
		'2.2250738585072014e-308', '2.2250738585072011e-308', '1.7976931348623158e308',
		'1.7976931348623159e308', '0.1000000000000000055511151231257827', '1e308', '1e309',
		'12345678901234567890', '0.12345678901234567', '0.123456789012345678',
		'99999999999999999', '999999999999999.99', '9999999999999999.9',
		'123456789.123456789123', '8.41e21', '2e-308', '9.5367431640625e-7'];
	$sign = mt_rand(0, 3) == 0 ? '-' : '';

	switch (mt_rand(0, 9)) {
		case 0:
			return $fixed[mt_rand(0, count($fixed) - 1)];
		case 1:
			return $sign . power_of_two(mt_rand(-80, 1030));
		case 2:
			return $sign . power_of_two(mt_rand(-60, 130));
		case 3:
			/* around a power of two, in as many digits as a double has */
			return $sign . sprintf('%.' . mt_rand(13, 17) . 'e',
				neighbour(2.0 ** mt_rand(-1021, 1023), mt_rand(-2, 2)));
		case 4:
			return $sign . json_encode(abs(neighbour(2.0 ** mt_rand(-1021, 1023), mt_rand(-2, 2))));
		case 5:
			$whole = mt_rand(1, 17);
			$total = mt_rand(16, 19);
			return $sign . digits($whole) . '.' . digits($total - $whole);
		case 6:
			return $sign . digits(1) . '.' . digits(mt_rand(14, 17)) . 'e' . mt_rand(-330, 330);
		case 7:
			return $sign . digits(mt_rand(18, 30));
		case 8:
			return sprintf('%.16e', random_double());
		default:
			return $sign . digits(mt_rand(16, 17)) . str_repeat('0', mt_rand(0, 20));
	}
}

if (realpath($_SERVER['SCRIPT_FILENAME']) === __FILE__) {
	mt_srand((int) $argv[1]);
	/* these don't fit PostgreSQL's numeric, so nothing else brings them */
	echo "1e1000000\n-1e99999999999999999999\n1e-99999999999999999999\n0e99999999999999999999\n";
	for ($i = 4; $i < (int) $argv[2]; $i++)
		echo ($i % 2 ? hard_number() : plain_number()), "\n";
}
