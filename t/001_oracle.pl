# 001_oracle.pl: what is signed and sent is what PHP would have written.
#
# The provider is a PHP program, so PHP itself is asked.  Parameters of all
# shapes, ten thousand from a seed, go through tegro_preview(); PHP then says of
# each body whether it would have written it just so, whether it still means
# what the parameters meant (numbers compared as exact decimals); and of what was
# refused, that it would indeed have lost digits.  The writer of bodies is also
# compiled alone, with sanitizers, for numbers and bytes that no jsonb would
# bring.  At last the same requests are sent.  PHP verifies the signatures of
# what the provider received, and its bodies are compared with what was shown.
#
# A preview shows no signature.  The published one is asked of the code that
# signs, compiled alone.
#
# TEGRO_TEST_SEED repeats a run.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use IPC::Run;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;

use TegroTest;

# Longer than SHA-256's block of 64 bytes, and with what shells, SQL and the
# credentials file would mind.
use constant ORACLE_KEY => 'key:with "all" of \'it\' \\ / $HOME %41 `x` ' . '0123456789abcdef' x 3;

my $root = "$FindBin::RealBin/..";
my $dir = PostgreSQL::Test::Utils::tempdir();
my $seed = $ENV{TEGRO_TEST_SEED} // int(rand(1_000_000_000));

diag("seed $seed");

# Runs a program; returns what it prints, or dies of what it complains of.
sub run_program
{
	my ($command, $input) = @_;
	my ($out, $err) = ('', '');

	IPC::Run::run($command, '<', \($input // ''), '>', \$out, '2>', \$err)
	  or die "@$command[0 .. 2] failed: $err$out";
	die "@$command[0 .. 2] complains: $err" if $err ne '';
	return $out;
}

# Runs a script of the oracle; no php.ini of the machine matters.
sub oracle
{
	my ($script, @arguments) = @_;

	return run_program([ 'php', '-n', "$FindBin::RealBin/oracle/$script.php", @arguments ]);
}

# PHP code over $input, for single questions.
sub php
{
	my ($code, $input) = @_;

	return run_program([ 'php', '-n', '-r', "\$input = stream_get_contents(STDIN); $code" ],
		$input);
}

# Shows what PHP found; passes if it found no fault.
sub agrees
{
	my ($report, $name) = @_;
	my $found = decode_json($report);

	diag("$name: " . join(', ', map { "$found->{counts}{$_} $_" } sort keys %{ $found->{counts} }));
	is(join("\n", @{ $found->{faults} }), '', $name);
	return $found->{counts};
}

BAIL_OUT('php is missing: install php-cli')
  unless eval { php('echo json_encode(1.5), hash("sha256", "");') };

my $sandbox = sandbox;
my $node = cluster('oracle', $sandbox);
my $quoted_key = ORACLE_KEY =~ s/'/''/gr;
my $accepted;


#
# The published example
#

{
	my $result = query(
		$node, q{
		SELECT body, url FROM tegro_preview('balance', '{"shop_id": "A77C266B1D9953AA863D3FBEF4B1D64F"}')});
	my ($body, $url) = split(/\|/, $result->{out});
	my $published = '{"nonce":1613435880,"shop_id":"A77C266B1D9953AA863D3FBEF4B1D64F"}';

	is( $body =~ s/(?<=^\{"nonce":)\d{16}(?=,)/1613435880/r,
		$published, "the provider's published example has the published body, but for the nonce");
	compile(
		'-std=gnu11', '-O1', '-Wall', '-Werror', "-I$root", '-o', "$dir/sign",
		spew("$dir/sign.c", <<'END'), "$root/src/format/signature.c", '-lcrypto');
#include <stdio.h>
#include <string.h>
#include "src/format/signature.h"

int
main(int argc, char **argv)
{
	char hex[TEGRO_SIGNATURE_LEN + 1];

	if (argc != 3 || !tegro_signature_request(argv[1], strlen(argv[1]), argv[2], strlen(argv[2]), hex))
		return 1;
	printf("%s", hex);
	return 0;
}
END
	is( run_program([ "$dir/sign", 'WzR7IcjWDkIgBco7', $published ]),
		'd8dbc0a8a9d1e4a012a4659bbd725a386e123b94cc935e4f623138488741bca4',
		"the provider's published example has the published signature");
	is( $url,
		$sandbox->api_url . '/balance/',
		'the URL is that of the method, with a slash at its end');
}


#
# Ten thousand parameters
#

my $params = spew("$dir/params", oracle('generate', $seed, 10_000));
my $csv = q{WITH (FORMAT csv, DELIMITER E'\x02', QUOTE E'\x01')};

$node->safe_psql('postgres', <<"SQL");
CREATE TABLE given (id int, method text, kind text, params jsonb);
COPY given FROM '$params' $csv;

CREATE FUNCTION try_preview(method text, params jsonb, OUT state text, OUT message text,
	OUT hint text, OUT body text)
LANGUAGE plpgsql AS \$\$
BEGIN
	SELECT p.body INTO body FROM tegro_preview(method, params) p;
EXCEPTION WHEN OTHERS THEN
	state := SQLSTATE;
	message := SQLERRM;
	GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
END
\$\$;
SQL

{
	my $result = query(
		$node, qq{
		SET tegro.shop_id = 'the-shop';
		CREATE TABLE previewed AS
			SELECT id, method, params, p.* FROM given, LATERAL try_preview(method, params) p;
		COPY (SELECT json_build_object('id', id, 'state', state, 'message', message, 'hint', hint,
				'body', body) FROM previewed)
			TO '$dir/results' $csv});
	is($result->{err}, '', 'all parameters went through tegro_preview');

	my $counts = agrees(
		oracle('check', 'params', $params, "$dir/results"),
		'PHP agrees with what became of 10,000 parameters');

	$accepted = $counts->{accepted};
	is($counts->{all}, 10_000, 'every one of them was judged');
	cmp_ok($counts->{accepted}       // 0, '>', 6_000, 'more than 60 % of them were accepted');
	cmp_ok($counts->{'fixed points'} // 0,
		'>', 5_000, 'and most of those hold nothing that PHP has no array for');
	cmp_ok($counts->{'refused, since PHP would change the value of a number'} // 0,
		'>', 200, 'some were refused, as they should');
}


#
# What the generator does not make
#

{
	my $session = session($node);

	# The parameters' own object is the first level.
	foreach my $levels (511, 512)
	{
		my $result = $session->query(
			sprintf(
				q{SELECT body FROM tegro_preview('balance', ('{"a":' || repeat('[', %d) || repeat(']', %d) || '}')::jsonb)},
				($levels - 1) x 2));

		if ($levels == 511)
		{
			is(php('echo json_encode(json_decode($input, true));', $result->{out}),
				$result->{out}, 'PHP reads as many levels as are accepted');
		}
		else
		{
			is($result->{sqlstate}, '22023', 'one level more is refused');
			is( php('var_export(json_decode($input, true));', '{"a":' . '[' x 511 . ']' x 511 . '}'
				),
				'NULL',
				'and PHP would not read it');
		}
	}
	$session->close;
}


#
# The writer alone, with sanitizers
#

{
	my $source = spew("$dir/harness.c", do { local $/ = undef; <DATA> });
	my $harness = "$dir/harness";
	compile(
		'-std=gnu11', '-g', '-O1', '-Wall', '-Werror', '-fsanitize=address,undefined', '-fno-sanitize-recover=all',
		"-I$root", '-o', $harness, $source, "$root/src/format/body.c", '-lm');

	# it allocates nothing, and the leak check needs rights that not all have
	local $ENV{ASAN_OPTIONS} = 'detect_leaks=0';

	my $numbers = oracle('numbers', $seed, 60_000);
	my $results = eval { run_program([ $harness, 'numbers' ], $numbers) };
	is($@, '', 'the writer survives 60,000 numbers');
	spew("$dir/numbers", $results // '');
	my $counts = agrees(
		oracle('check', 'numbers', "$dir/numbers"),
		'PHP agrees with what became of 60,000 numbers');
	cmp_ok($counts->{ok}    // 0, '>', 30_000, 'more than half of them were accepted');
	cmp_ok($counts->{loses} // 0, '>', 5_000, 'and many refused');

	my $out = eval { run_program([ $harness, 'random', $seed, 60_000, $params ]) };
	is($@, '', 'the writer survives 60,000 times random bytes, and stays within its bounds');
	like($out // '', qr/^60000 /, 'all of them were tried');
	diag("random bytes: $out") if defined $out;
}


#
# Encodings
#

{
	my %texts = (
		LATIN1 => "\\u00e9\\u00ff\\u00a0\\u0080\\u00df",
		LATIN9 => "\\u20ac\\u0152",
		WIN1251 => "\\u0417\\u0430\\u043a\\u0430\\u0437 \\u2116 1",
		KOI8R => "\\u0417\\u0430\\u043a\\u0430\\u0437",
		EUC_JP => "\\u65e5\\u672c\\u8a9e",
		UTF8 => "\\ud83d\\udcb0\\u20ac");

	foreach my $encoding (sort keys %texts)
	{
		my $database = lc("in_$encoding");

		$node->safe_psql('postgres',
			"CREATE DATABASE $database ENCODING '$encoding' LOCALE 'C' TEMPLATE template0");
		$node->safe_psql($database, 'CREATE EXTENSION tegro');

		# jsonb resolves the escapes, so the text is in the server's encoding
		my $session = session($node, database => $database);
		my $text = $texts{$encoding};
		my $result = $session->query(
			qq{SELECT body FROM tegro_preview('balance', '{"$text": "$text", "shop_id": "$text"}')}
		);
		like(
			$result->{out},
			qr/^\{"nonce":\d{16},\Q"shop_id":"$text","$text":"$text"}\E$/,
			"text in a database of encoding $encoding is converted");

		$result = $session->query(
			qq{SELECT set_config('tegro.shop_id', '{"a": "$text"}'::jsonb->>'a', false);
			   SELECT body FROM tegro_preview('balance')});
		like($result->{out}, qr/^\{"nonce":\d{16},\Q"shop_id":"$text"}\E$/m, "so is tegro.shop_id there");
		$session->close;
	}

	$node->safe_psql('postgres',
		"CREATE DATABASE any_bytes ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0");
	$node->safe_psql('any_bytes', 'CREATE EXTENSION tegro');

	$sandbox->begin;
	my $session = session($node, database => 'any_bytes', encoding => 'SQL_ASCII');
	my $result = $session->query(
		q{SELECT body FROM tegro_preview('balance', jsonb_build_object('a', E'\xc3\xa9\xf0\x9f\x92\xb0'))}
	);
	is( $result->{out} =~ s/^\{"nonce":\d{16},//r,
		'"shop_id":"' . SHOP_ID . '","a":"\u00e9\ud83d\udcb0"}',
		'a database of encoding SQL_ASCII is taken to hold UTF-8');

	foreach my $bytes (
		'\xe9', 'a\xff', '\xc3', '\xc3(',
		'\xc0\xaf', '\xe0\x80\xaf', '\xed\xa0\x80', '\xf4\x90\x80\x80',
		'\xf0\x9f\x92')
	{
		my %uses = (
			'a value' => qq{jsonb_build_object('a', E'$bytes')},
			'a name' => qq{jsonb_build_object(E'$bytes', 1)},
			'a shop' => qq{jsonb_build_object('shop_id', E'$bytes')});

		foreach my $use (sort keys %uses)
		{
			$result = $session->query("SELECT body FROM tegro_preview('balance', $uses{$use})");
			is("$result->{sqlstate}$result->{out}", '22021', "$bytes as $use is an error there");
		}
		$result = $session->query("SELECT tegro_order(payment_id => E'$bytes')");
		is("$result->{sqlstate}$result->{out}", '22021', "$bytes is not asked for");
	}
	$result = $session->query(
		q{SET tegro.shop_id = E'shop\xe9'; SELECT body FROM tegro_preview('balance')});
	is("$result->{sqlstate}$result->{out}",
		'22021', 'tegro.shop_id that is not UTF-8 is an error there');
	is(scalar($sandbox->journal), 0, 'nothing of it was sent');
	$session->close;
}


#
# What is shown is what is sent
#

{
	$sandbox->begin;
	my $result = query(
		$node, qq{
		SET tegro.api_key = '$quoted_key';
		SET tegro.shop_id = 'the-shop';
		CREATE TEMP TABLE sent AS SELECT * FROM previewed WHERE body IS NOT NULL;
		COPY (SELECT json_build_object('method', method, 'body', body) FROM sent) TO '$dir/previews' $csv;
		SELECT count(*) = (SELECT count(*) FROM sent), string_agg(DISTINCT b.sqlstate, ' ' ORDER BY b.sqlstate)
			FROM (SELECT method, array_agg(params) AS params FROM sent GROUP BY method) s,
				LATERAL tegro_batch(s.method, s.params) b});
	my $journal_file =
	  spew("$dir/journal", join('', map { encode_json($_) . "\n" } $sandbox->journal));

	is($result->{err}, '', 'all of them that are accepted were sent');
	like($result->{out}, qr/^t\|/, 'and each had an outcome');
	my $counts = agrees(
		oracle('check', 'journal', $journal_file, "$dir/previews", ORACLE_KEY),
		'what the provider received is what was shown, byte for byte but for the nonce, and PHP verifies it');
	is($counts->{requests}, $accepted, 'each was sent once');
}

$node->stop;
done_testing();

__DATA__
/*
 * harness.c
 *		The writer of request bodies without a server.
 *
 *	harness numbers				a number a line -> NUMBER\x02OUTCOME\x02TEXT
 *	harness random SEED COUNT FILE
 *								random bytes, JSON-like ones, and lines of FILE
 *								with some bytes changed
 *
 * Input and output are in memory of just the size that they may use, so that
 * AddressSanitizer sees a byte too many.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/format/body.h"
#include "t/oracle/random.h"

static TegroBodyStatus
try(const char *bytes, size_t len, char **out, size_t *out_len)
{
	size_t		fault = 0;
	size_t		fault_len = 0;
	char	   *json = malloc(len ? len : 1);
	TegroBodyStatus status;

	/* an empty input has no byte to read */
	memcpy(json, bytes, len);
	if (len == 0)
		json = realloc(json, 1);
	*out = malloc(TEGRO_BODY_BOUND(len));
	status = tegro_body_write(json, len, *out, out_len, &fault, &fault_len);
	if ((int) status < TEGRO_BODY_OK || status > TEGRO_BODY_NOT_JSON)
		abort();
	if (status == TEGRO_BODY_OK ? *out_len > TEGRO_BODY_BOUND(len) :
		fault > len || fault_len > len - fault)
		abort();
	free(json);
	return status;
}

static int
numbers(void)
{
	static const char *const names[] = {"ok", "loses", "too deep", "not UTF-8", "not JSON"};
	static char line[4096];

	while (fgets(line, sizeof(line), stdin))
	{
		size_t		len = strcspn(line, "\n");
		char	   *out;
		size_t		out_len;
		TegroBodyStatus status = try(line, len, &out, &out_len);

		printf("%.*s\x02%s\x02%.*s\n", (int) len, line, names[status],
			   (int) (status == TEGRO_BODY_OK ? out_len : 0), out);
		free(out);
	}
	return 0;
}

static size_t
random_bytes(char *bytes, size_t room)
{
	size_t		len = below(room);

	for (size_t i = 0; i < len; i++)
		bytes[i] = (char) below(256);
	return len;
}

static size_t
random_tokens(char *bytes, size_t room)
{
	static const char *const tokens[] = {"{", "}", "[", "]", ",", ":", "\"", "\"\"", "\"a\"",
		"true", "null", "-", "0", "1", "9", "1e16", "1e17", "1e-3", "12345678901234567", ".",
		"e", "E", "+", "e+", "-1e16", "1e308", "1e-308", "1e99999", "0.000", "/", "\\", "\\u",
	"\\\"", " ", "\n", "\x01", "\x7f", "\xc3\xa9", "\xf0\x9f\x92\xb0", "\xed\xa0\x80", "\xff"};
	size_t		ntokens = sizeof(tokens) / sizeof(tokens[0]);
	size_t		len = 0;
	size_t		wanted = below(room);

	/* at times one or two tokens again and again: the worst for the bound */
	size_t		few = below(4) == 0 ? 1 + below(2) : ntokens;
	size_t		first = below(ntokens);
	char		between = ",,:["[below(4)];

	while (len < wanted)
	{
		const char *token = tokens[(first + below(few)) % ntokens];
		size_t		n = strlen(token);

		if (len + n > room)
			break;
		memcpy(bytes + len, token, n);
		len += n;
		if (few < ntokens && len < room)
			bytes[len++] = between;
	}
	return len;
}

static size_t
changed_line(char *bytes, size_t room, char **lines, size_t nlines)
{
	const char *line = lines[below(nlines)];
	size_t		len = strlen(line);

	if (len > room - 16)
		len = room - 16;
	memcpy(bytes, line, len);
	for (size_t changes = below(4); changes > 0 && len > 0; changes--)
	{
		size_t		at = below(len);

		switch (below(4))
		{
			case 0:
				bytes[at] = (char) below(256);
				break;
			case 1:
				bytes[at] = "{}[]\",:\\-+.eE019/"[below(17)];
				break;
			case 2:
				memmove(bytes + at, bytes + at + 1, len - at - 1);
				len--;
				break;
			default:
				len = at;
				break;
		}
	}
	return len;
}

int
main(int argc, char **argv)
{
	static char bytes[20000];
	static char line[200000];
	char	  **lines = NULL;
	size_t		nlines = 0;
	long		outcomes[5] = {0};
	long		count;
	FILE	   *file;

	if (argc == 2 && strcmp(argv[1], "numbers") == 0)
		return numbers();
	if (argc != 5 || strcmp(argv[1], "random") != 0)
		return 2;
	state = strtoull(argv[2], NULL, 10);
	count = atol(argv[3]);
	file = fopen(argv[4], "r");
	if (file == NULL)
		return 2;
	while (fgets(line, sizeof(line), file))
	{
		char	   *json = strrchr(line, '\x02');

		lines = realloc(lines, (nlines + 1) * sizeof(char *));
		lines[nlines++] = strndup(json + 1, strcspn(json + 1, "\n"));
	}
	fclose(file);

	for (long n = 0; n < count; n++)
	{
		size_t		room = n % 100 == 0 ? sizeof(bytes) : 400;
		size_t		len = n % 3 == 0 ? random_bytes(bytes, room) :
			n % 3 == 1 ? random_tokens(bytes, room) :
			changed_line(bytes, sizeof(bytes), lines, nlines);
		char	   *out;
		size_t		out_len;

		outcomes[try(bytes, len, &out, &out_len)]++;
		free(out);
	}
	printf("%ld tried: %ld ok, %ld lose digits, %ld too deep, %ld not UTF-8, %ld not JSON\n", count,
		   outcomes[0], outcomes[1], outcomes[2], outcomes[3], outcomes[4]);
	return 0;
}
