# 211_links.pl: payment links and notifications, with PHP as the oracle.
#
# Ten thousand links are made of what a PHP shop would make them of, and PHP
# says whether it would have signed and written the same.  Ten thousand
# notifications are signed by PHP as the provider does, half of them then
# tampered with; what is right must be accepted, and nothing be that PHP, as a
# shop's receiver, would refuse.  The reader of forms is also compiled alone,
# with sanitizers, and given random bytes.
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

# What shells, SQL and forms would mind.
use constant ORACLE_KEY => 'key:with "all" of \'it\' \\ / $HOME %41&=+ `x` é';

my $root = "$FindBin::RealBin/..";
my $dir = PostgreSQL::Test::Utils::tempdir();
my $seed = $ENV{TEGRO_TEST_SEED} // int(rand(1_000_000_000));

diag("seed $seed");

# Runs a program; returns what it prints, or dies of what it complains of.
sub run_program
{
	my (@command) = @_;
	my ($out, $err) = ('', '');

	IPC::Run::run(\@command, '<', \undef, '>', \$out, '2>', \$err)
	  or die "@command[0 .. 2] failed: $err$out";
	die "@command[0 .. 2] complains: $err" if $err ne '';
	return $out;
}

# Runs the oracle; no php.ini of the machine matters.
sub oracle
{
	return run_program('php', '-n', "$FindBin::RealBin/oracle/forms.php", @_);
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
  unless eval { run_program('php', '-n', '-r', 'echo http_build_query([1]), md5("");') };

my $node = cluster('links', undef, conf => "tegro.api_url = 'https://tegro.money/api'");
my $quoted_key = ORACLE_KEY =~ s/'/''/gr;
my $csv = q{WITH (FORMAT csv, DELIMITER E'\x02', QUOTE E'\x01')};
my $settings = "SET tegro.secret_key = '$quoted_key';";


#
# Links
#

{
	my $given = spew("$dir/links", oracle('links', $seed, 10_000, ORACLE_KEY, SHOP_ID));
	my $result = query(
		$node, qq{
		$settings
		CREATE TABLE link (id int, params jsonb, expected text);
		COPY link FROM '$given' $csv;
		COPY (SELECT json_build_object('id', id, 'url', tegro_payment_url(params)) FROM link)
			TO '$dir/urls' $csv});

	is($result->{err}, '', '10,000 links were made');
	my $counts =
	  agrees(oracle('check-links', $given, "$dir/urls"), 'PHP would have made the same links');
	is($counts->{links}, 10_000, 'every one of them was judged');
	cmp_ok($counts->{'with other fields'}, '>', 5_000, 'most have fields that are not signed');
}

subtest 'a link points to the place of the API' => sub {
	my %place = (
		'https://tegro.money/api' => 'https://tegro.money/pay/?',
		'http://127.0.0.1:8080/api/' => 'http://127.0.0.1:8080/pay/?',
		'http://127.0.0.1:8080/gateway' => 'http://127.0.0.1:8080/gateway/pay/?');

	foreach my $address (reverse sort keys %place)
	{
		set_server($node, { 'tegro.api_url' => $address });
		like(
			query($node, qq{$settings SELECT tegro_payment_url('{"amount": 1, "currency": "RUB", "order_id": "1"}')})->{out},
			qr/^\Q$place{$address}\Eamount=1&/,
			"of $address");
	}
	set_server($node, { 'tegro.api_url' => undef });
};


#
# Notifications
#

{
	my $given =
	  spew("$dir/forms", oracle('notifications', $seed, 10_000, ORACLE_KEY, SHOP_ID));
	my $result = query(
		$node, qq{
		$settings
		CREATE TABLE form (id int, kind text, form text, json text, multipart text);
		COPY form FROM '$given' $csv;
		COPY (SELECT json_build_object('id', id, 'text', tegro_verify_notification(form),
				'json', CASE WHEN json <> '' THEN tegro_verify_notification(json) END,
				'multipart', CASE WHEN multipart <> '' THEN tegro_verify_notification(multipart::jsonb #>> '{}') END)
				FROM form) TO '$dir/verified' $csv});

	is($result->{err}, '', '10,000 notifications were verified');
	my $counts = agrees(
		oracle('check-notifications', $given, "$dir/verified", ORACLE_KEY),
		'PHP agrees on the notifications');
	is($counts->{notifications}, 10_000, 'every one of them was judged');
	cmp_ok($counts->{accepted}, '>', 4_000, 'many were accepted');
	cmp_ok($counts->{refused}, '>', 4_000, 'and as many refused');
	cmp_ok($counts->{link}, '>', 300, 'many have the fields of links, without payment_system');
	cmp_ok($counts->{'as JSON'}, '>', 4_000, 'many came as JSON, too');
	cmp_ok($counts->{'as multipart'}, '>', 4_000, 'and as multipart');
	is($counts->{'refused by us alone'} // 0, 0, 'all were accepted that PHP would accept');

	# without the library's own writer of forms in between: the key matters
	is(query($node, q{SELECT count(*) FILTER (WHERE tegro_verify_notification(form)) FROM form WHERE kind = 'right'})->{out},
		'0', 'under another key none is right');
}


#
# Encodings: a form is UTF-8, whatever the database is
#

{
	foreach my $encoding (qw(UTF8 LATIN1 WIN1251 SQL_ASCII))
	{
		my $database = lc("in_$encoding");
		my $fields = 'amount=1.00&currency=RUB&order_id=%C3%A9&payment_system=1&shop_id=' . SHOP_ID;
		my $sign = run_program('php', '-n', '-r', 'echo md5($argv[1] . $argv[2]);', '--', $fields, SECRET_KEY);

		$node->safe_psql('postgres',
			"CREATE DATABASE $database ENCODING '$encoding' LOCALE 'C' TEMPLATE template0");
		$node->safe_psql($database, 'CREATE EXTENSION tegro');
		my $session = session($node, database => $database,
			encoding => $encoding eq 'SQL_ASCII' ? 'SQL_ASCII' : 'UTF8');
		is($session->query("SELECT tegro_verify_notification('$fields&sign=$sign')")->{out},
			't', "$encoding: é in a form is verified");

		# written without escapes, as the client's encoding has it
		my $part = sub { qq(--b\\r\\nContent-Disposition: form-data; name="$_[0]"\\r\\n\\r\\n$_[1]\\r\\n) };
		my %value = map { split(/=/, $_, 2) } split(/&/, $fields);
		$value{order_id} = "\xc3\xa9";
		my $has_e = $encoding ne 'WIN1251';
		my $multipart = join('', map { $part->($_, $value{$_}) } sort keys %value) . $part->('sign', $sign) . '--b--';
		my $json = encode_json({ %value, order_id => 'E', sign => $sign }) =~ s/"E"/"\xc3\xa9"/r;
		my $escaped = encode_json({ %value, order_id => 'E', sign => $sign }) =~ s/"E"/"\\u00e9"/r;
		is($session->query("SELECT tegro_verify_notification(E'$multipart')")->{$has_e ? 'out' : 'sqlstate'},
			$has_e ? 't' : '22P05', "$encoding: é in multipart");
		is($session->query("SELECT tegro_verify_notification('$json')")->{$has_e ? 'out' : 'sqlstate'},
			$has_e ? 't' : '22P05', "$encoding: é in JSON");
		# SQL_ASCII has no characters that an escape could mean
		is($session->query("SELECT tegro_verify_notification('$escaped')")->{out},
			$encoding =~ /^(UTF8|LATIN1)$/ ? 't' : 'f', "$encoding: an escaped é in JSON");

		my $recorded = $session->query("SELECT tegro_notify('$fields&sign=$sign')");
		if ($encoding eq 'WIN1251')
		{
			is($recorded->{sqlstate}, '22P05', "$encoding: but it has no é to record it");
		}
		else
		{
			is($recorded->{out}, 't', "$encoding: and recorded");
			is($session->query('SELECT order_id FROM tegro_notification')->{out}, "\xc3\xa9",
				"$encoding: as é");
		}
		like(
			$session->query(sprintf(q|SELECT tegro_payment_url('{"amount": 1, "currency": "RUB", "order_id": "a%s"}')|,
				{ WIN1251 => '\\u0417', SQL_ASCII => "\xd0\x97" }->{$encoding} // '\\u00df'))->{out},
			qr/order_id=a%(?:D0%97|C3%9F)&/, "$encoding: a link is UTF-8");
		if ($encoding eq 'SQL_ASCII')
		{
			foreach my $bytes ('\xff', 'a\xc3', '\xed\xa0\x80')
			{
				foreach my $body (qq({"a": "$bytes"}), qq(--b\\r\\nContent-Disposition: form-data; name=a\\r\\n\\r\\n$bytes\\r\\n--b--))
				{
					is($session->query("SELECT tegro_verify_notification(E'$body')")->{out},
						'f', "$encoding: what is not UTF-8 is not verified: $bytes");
				}
			}
		}
		$session->close;
	}
}
$node->stop;


#
# The reader alone, with sanitizers
#

{
	my $source = spew("$dir/harness.c", do { local $/ = undef; <DATA> });
	compile(
		'-std=gnu11', '-g', '-O1', '-Wall', '-Werror', '-fsanitize=address,undefined', '-fno-sanitize-recover=all',
		"-I$root", '-o', "$dir/harness", $source, "$root/src/format/query.c");

	# it allocates nothing, and the leak check needs rights that not all have
	local $ENV{ASAN_OPTIONS} = 'detect_leaks=0';
	my $out = eval { run_program("$dir/harness", $seed, 200_000) };
	is($@, '', 'the reader of forms survives 200,000 times random bytes');
	like($out // '', qr/^200000 forms, [1-9]\d{3,} read, [1-9]\d{2,} sorted/,
		'many of which it could read, and some sort');
	diag($out) if defined $out;
}

done_testing();

__DATA__
/*
 * harness.c
 *		The reader and writer of forms without a server.
 *
 *	harness SEED COUNT
 *
 * What was read and sorted is written, and read again: it must be the same
 * fields, and be written the same.  All buffers have just the size that may be
 * used, so that AddressSanitizer sees a byte too many.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/format/query.h"
#include "t/oracle/random.h"

static size_t
make_form(char *bytes, size_t room)
{
	static const char *const tokens[] = {"&", "&", "&", "=", "=", "=", "a", "b", "_c", "sign", "[",
		"]", "[0]", "[x]", "[]", "%5B", "%5D", "%", "%4", "%41", "%00", "%zz", "%C3%A9", "%ED%A0%80",
	"%F4%90%80%80", "+", ".", "-", "1", "1e1", "\xc3", "\xc3\xa9", "\xff", "a=1&", "b=2&", "c[d]=3&"};
	size_t		ntokens = sizeof(tokens) / sizeof(tokens[0]);
	size_t		wanted = below(room);
	size_t		len = 0;
	int			noise = below(4) == 0;

	while (len < wanted)
	{
		const char *token = tokens[below(ntokens)];
		size_t		n = strlen(token);

		if (noise)
		{
			bytes[len++] = (char) below(256);
			continue;
		}
		if (len + n > room)
			break;
		memcpy(bytes + len, token, n);
		len += n;
	}
	return len;
}

static char *
exactly(const char *bytes, size_t len)
{
	char	   *copy = malloc(len ? len : 1);

	memcpy(copy, bytes, len);
	return len ? copy : realloc(copy, 1);
}

static void
fail(const char *what)
{
	fprintf(stderr, "%s\n", what);
	exit(1);
}

int
main(int argc, char **argv)
{
	size_t		count = strtoull(argv[2], NULL, 10);
	size_t		nread = 0;
	size_t		nsorted = 0;

	state = strtoull(argv[1], NULL, 10);
	for (size_t n = 0; n < count; n++)
	{
		static char buffer[400];
		size_t		len = make_form(buffer, below(8) ? 40 : sizeof(buffer));
		char	   *body = exactly(buffer, len);
		char	   *number;
		TegroQueryField fields[TEGRO_QUERY_MAX_FIELDS];
		TegroQueryField again[TEGRO_QUERY_MAX_FIELDS];
		size_t		nfields;
		size_t		nagain;

		/* any bytes as a number, too */
		number = malloc(len ? len : 1);
		(void) tegro_query_number(body, len, number, &nagain);
		free(number);

		if (tegro_query_read(body, len, fields, &nfields) == TEGRO_QUERY_OK)
		{
			nread++;
			if (tegro_query_sort(fields, nfields) == TEGRO_QUERY_OK)
			{
				size_t		room = tegro_query_room(fields, nfields);
				char	   *text = malloc(room ? room : 1);
				size_t		text_len = tegro_query_write(fields, nfields, text);
				char	   *copy = exactly(text, text_len);
				char	   *text_again = malloc(room ? room : 1);

				nsorted++;
				if (tegro_query_read(copy, text_len, again, &nagain) != TEGRO_QUERY_OK ||
					nagain != nfields)
					fail("what was written is not read as it was");
				for (size_t i = 0; i < nfields; i++)
					if (again[i].name_len != fields[i].name_len ||
						again[i].value_len != fields[i].value_len ||
						memcmp(again[i].name, fields[i].name, fields[i].name_len) != 0 ||
						memcmp(again[i].value, fields[i].value, fields[i].value_len) != 0)
						fail("a field is another");
				if (tegro_query_sort(again, nagain) != TEGRO_QUERY_OK ||
					tegro_query_write(again, nagain, text_again) != text_len ||
					memcmp(text, text_again, text_len) != 0)
					fail("it is written otherwise");
				free(text);
				free(copy);
				free(text_again);
			}
		}
		free(body);
	}
	printf("%zu forms, %zu read, %zu sorted\n", count, nread, nsorted);
	return 0;
}
