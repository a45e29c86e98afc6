# 401_doctor.pl: what tegro_doctor() says when something is wrong.
#
# Everything that it looks for is broken, one after the other, and mended again,
# where possible by the command that its hint gives.  It must find that, and
# nothing else.  All that it ever said is searched for keys at the end.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use JSON::PP;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use TegroTest;

use constant CANARY => 'CANARY-key-31d7';

my $dir = PostgreSQL::Test::Utils::tempdir();
my $certificates = certificates(qw(good expired self_signed));
my $sandbox = sandbox(certificates => $certificates);

# a libcurl that says that it resolves names itself, where it is told to
my $curl = "$dir/curl.so";
spew("$dir/curl.c", <<'END');
#define _GNU_SOURCE
#include <dlfcn.h>
#include <unistd.h>
#include <curl/curl.h>
curl_version_info_data *curl_version_info(CURLversion age)
{
	static curl_version_info_data copy;
	curl_version_info_data *(*real)(CURLversion) = dlsym(RTLD_NEXT, "curl_version_info");
	copy = *real(age);
	if (access(SWITCH, F_OK) == 0)
		copy.features &= ~CURL_VERSION_ASYNCHDNS;
	return &copy;
}
END
system('cc', '-shared', '-fPIC', "-DSWITCH=\"$dir/synchronous\"", '-o', $curl, "$dir/curl.c", '-ldl') == 0
  or BAIL_OUT('could not compile a library');
my %preload = preload_library();
$preload{LD_PRELOAD} = "$curl:$preload{LD_PRELOAD}";

my $node = cluster('doctor', $sandbox, certificates => $certificates, environment => \%preload, conf => <<'END');
fsync = on
max_wal_senders = 4
max_replication_slots = 4
wal_level = replica
max_prepared_transactions = 2
autovacuum = off
END
my $credentials = query($node, 'SHOW tegro.credentials_file')->{out};
my $told = '';

# What the doctor says: [{check, status, detail, hint}, ...], in a session of its
# own unless one is given.
sub doctor
{
	my ($session, $before, %options) = @_;
	my $own = !$session;

	$session //= session($options{node} // $node, %options);
	my $result = $session->query(($before // '') . <<'END');
SELECT coalesce(jsonb_agg(to_jsonb(d)), '[]') FROM tegro_doctor() AS d;
END
	$session->close if $own;
	$told .= "$result->{out}\n$result->{err}\n";
	my ($line) = reverse(split(/\n/, $result->{out}));
	return { ms => own_ms($result), sqlstate => $result->{sqlstate}, rows => eval { decode_json($line) } // [] };
}

# The rows of one check.
sub rows_of
{
	my ($said, $check) = @_;

	return grep { $_->{check} eq $check } @{ $said->{rows} };
}

# One row of the check is of that status, its detail and hint as expected; and
# nothing else is wrong but what "also" names.
sub finds
{
	my ($said, $check, $status, $detail, $hint, $name, %options) = @_;
	my ($row) = grep { $_->{status} eq $status && $_->{detail} =~ $detail } rows_of($said, $check);
	my %allowed = map { $_ => 1 } $check, @{ $options{also} // [] };
	my @others = grep { $_->{status} =~ /^(warning|error)$/ && !$allowed{ $_->{check} } } @{ $said->{rows} };

	subtest $name => sub {
		ok($row, "\"$check\": $status") or diag(explain([ rows_of($said, $check) ]));
		like(($row // {})->{hint} // '', $hint, 'the hint');
		is_deeply(\@others, [], 'nothing else is wrong');
		note(explain($row));
	};
	return $row;
}

sub configure
{
	my (@lines) = @_;

	$node->append_conf('postgresql.conf', "$_") foreach @lines;
	reload_conf($node);
	return;
}

# Takes the lines back that configure() has added.
my $conf = slurp_file($node->data_dir . '/postgresql.conf');

sub restore
{
	spew($node->data_dir . '/postgresql.conf', $conf);
	reload_conf($node);
	return;
}

sub run_sql { return $node->safe_psql('postgres', $_[0]); }


#
# All is well
#

{
	my $said = doctor();

	is_deeply([ grep { $_->{status} ne 'ok' } @{ $said->{rows} } ], [], 'a sound installation is well');
	cmp_ok(scalar(@{ $said->{rows} }), '>', 20, '... in all respects');
	ok($said->{ms} < 5000, 'it takes no time');
}


#
# Keys
#

{
	my $line = slurp_file($credentials);
	my @also = ('credentials');

	chmod(0644, $credentials);
	finds(doctor(), 'credentials', 'error', qr/\Q$credentials\E.*mode 0644/, qr/chmod 0600/, 'a credentials file that others can read');
	chmod(0600, $credentials);

	rename($credentials, "$credentials.real");
	finds(doctor(), 'credentials', 'error', qr/No such file/, qr/^Create the file/, 'a credentials file that is missing');
	symlink("$credentials.real", $credentials);
	finds(doctor(), 'credentials', 'error', qr/It is a symbolic link/, qr/to the file itself/, '... that is a symbolic link');
	unlink($credentials);
	mkdir($credentials);
	finds(doctor(), 'credentials', 'error', qr/not a regular file/, qr/to a regular file/, '... that is a directory');
	rmdir($credentials);
	rename("$credentials.real", $credentials);

	spew($credentials, "another shop:*:@{[CANARY]}:@{[CANARY]}\n");
	finds(doctor(), 'credentials', 'error', qr/^No API key for shop "@{[SHOP_ID]}"/, qr/^Add the line/, 'no line for the shop');
	spew($credentials, "*:nobody:@{[CANARY]}:@{[CANARY]}\n");
	finds(doctor(), 'credentials', 'error', qr/and role "/, qr/^Add the line/, 'no line for the role');
	spew($credentials, "*:@{[CANARY]}\n");
	finds(doctor(), 'credentials', 'error', qr/Line 1 does not have the form/, qr/any shop or any role/, 'a line that is none');
	spew($credentials, SHOP_ID . ':*:' . API_KEY . ":\n");
	finds(doctor(), 'secret key', 'error', qr/^No secret key for shop/, qr/^Write it as the fourth field/, 'no secret key');
	spew($credentials, $line);

	finds(doctor(undef, "SET tegro.shop_id = '';\n"), 'credentials', 'error', qr/^No shop is set/, qr/tegro.shop_id/, 'no shop');

	spew($node->data_dir . '/keys', $line, 0600);
	configure("tegro.credentials_file = 'keys'");
	finds(doctor(), 'credentials file', 'warning', qr/in the data directory/, qr/^Move it/, 'a credentials file in the data directory');
	configure("tegro.credentials_file = ''");
	my $said = doctor();
	finds($said, 'credentials', 'error', qr/^No API key is set/, qr/^Name a file/, 'no credentials file');
	is((rows_of($said, 'provider'))[0]{status}, 'skipped', 'without a key nothing is asked');
	finds(doctor(undef, "SET tegro.api_key = '@{[API_KEY]}';\n"), 'credentials', 'warning', qr/worker.* does not have it/, qr/^Name a file/,
		'a key of the session alone', also => [ 'keys in session', 'secret key' ]);
	restore();
}

# where keys can be read
{
	configure("tegro.secret_key = '@{[CANARY]}'");
	my $said = doctor();
	finds($said, 'keys in files', 'warning', qr/^tegro.secret_key stands in .*postgresql.conf, line \d+/, qr/^Remove the line.*new ones from Tegro/,
		'a key in postgresql.conf');
	restore();

	query($node, "ALTER SYSTEM SET tegro.api_key = '@{[CANARY]}'; SELECT pg_reload_conf();");
	reload_conf($node);
	my $row = finds(doctor(), 'keys in files', 'warning', qr/postgresql.auto.conf/, qr/^ALTER SYSTEM RESET tegro.api_key/,
		'a key by ALTER SYSTEM', also => [ 'provider', 'secret key' ]);
	my ($command) = ($row->{hint} // '') =~ /^(ALTER SYSTEM RESET \S+; SELECT pg_reload_conf\(\);)/;
	query($node, $command);
	reload_conf($node);
	is(scalar(grep { $_->{status} =~ /^(warning|error)$/ } @{ doctor()->{rows} }), 0, 'the command of the hint takes it out');

	run_sql('CREATE DATABASE "other base"');
	run_sql(q{CREATE ROLE "a role"; CREATE FUNCTION with_key() RETURNS int LANGUAGE sql AS 'SELECT 1'});
	# ALTER refuses them, so they are written as if from before the library was loaded
	my $array = "'{tegro.secret_key=@{[CANARY]}}'";
	my %stored = (
		'DATABASE postgres' => q{pg_database WHERE datname = 'postgres'},
		'ROLE "a role"' => q{pg_roles WHERE rolname = 'a role'},
		'ROLE "a role" IN DATABASE "other base"' => q{pg_database, pg_roles WHERE datname = 'other base' AND rolname = 'a role'},
		'ROLE ALL' => '(SELECT) AS _',
		'ROUTINE public.with_key()' => undef);
	foreach my $what (sort keys %stored)
	{
		my ($database, $role) = ($what =~ /DATABASE/ ? 'pg_database.oid' : 0, $what =~ /"a role"/ ? 'pg_roles.oid' : 0);

		run_sql($stored{$what}
			? "INSERT INTO pg_db_role_setting SELECT $database, $role, $array FROM $stored{$what}"
			: "UPDATE pg_proc SET proconfig = $array WHERE oid = 'with_key()'::regprocedure");
		my $found = finds(doctor(), 'keys in catalogs', 'error', qr/is set by ALTER \Q$what\E\..*every role can read it/i, qr/^ALTER \Q$what\E RESET tegro.secret_key;/,
			"a key by ALTER $what");
		my ($mend) = ($found->{hint} // '') =~ /^(ALTER .*?;)/;
		run_sql($mend);
		is(scalar(grep { $_->{status} eq 'error' } @{ doctor()->{rows} }), 0, 'the command of the hint takes it out');
	}

	{
		local $ENV{PGOPTIONS} = '-c tegro.secret_key=' . CANARY;
		finds(doctor(), 'keys in session', 'warning', qr/^tegro.secret_key came with the connection/, qr/credentials_file/, 'a key by PGOPTIONS');
	}
	my $set = "SET tegro.secret_key = '@{[CANARY]}';\n";
	finds(doctor(undef, $set), 'keys in session', 'warning', qr/was set by a statement\. It is logged as soon as/, qr/^RESET tegro.secret_key;/, 'a key by SET');
	finds(doctor(undef, "SET log_statement = 'all';\n$set"), 'keys in session', 'error', qr/log_statement is all/, qr/^RESET tegro.secret_key;.*new ones/,
		'... while statements are logged');
	finds(doctor(undef, "SET log_min_duration_statement = 0;\n$set"), 'keys in session', 'error', qr/log_min_duration_statement is 0/, qr/^RESET/,
		'... while slow ones are');
}


#
# Settings
#

{
	configure("tegro.tiemout = '5s'");
	finds(doctor(), 'configuration', 'error', qr/^tegro.tiemout, .*postgresql.conf line \d+: /, qr/^Correct or remove/, 'a setting that does not exist');
	restore();

	configure("tegro.claim_timeout = '11s'");
	my $row = finds(doctor(), 'settings', 'warning', qr/tegro.claim_timeout \(11 s\) is hardly longer/, qr/^ALTER SYSTEM SET tegro.claim_timeout = '60s'/, 'a lease that is too short');
	restore();
	configure("tegro.claim_timeout = '1s'");
	finds(doctor(), 'settings', 'error', qr/tegro.claim_timeout \(1 s\) leaves no time to send in: hardly anything of the outbox is sent, and no answer is waited for/, qr/^ALTER SYSTEM SET tegro.claim_timeout = '60s'/, 'a lease in which nothing can be sent');
	restore();
	foreach my $name (qw(not_found_pattern retryable_pattern duplicate_pattern))
	{
		configure("tegro.$name = '('");
		finds(doctor(), 'patterns', 'error', qr/^tegro.$name: invalid regular expression/, qr/RESET tegro.$name/, "tegro.$name that is no pattern");
		restore();
	}

	run_sql(<<'END');
CREATE ROLE clerk LOGIN;
GRANT EXECUTE ON FUNCTION tegro_doctor(), tegro_balance() TO clerk;
END
}


#
# Libraries
#

{
	spew("$dir/synchronous", '');
	finds(doctor(), 'libcurl', 'error', qr/^libcurl .* resolves names synchronously/, qr/^Install a libcurl/, 'a libcurl without an asynchronous resolver',
		also => [ 'provider' ]);
	unlink("$dir/synchronous");

	my $update = "UPDATE pg_extension SET extversion = '%s' WHERE extname = 'tegro'";
	run_sql(sprintf($update, '0.9'));
	finds(doctor(), 'library', 'error', qr/library that this session has loaded is version 1\.\S+, the extension's objects are version 0\.9/,
		qr/restart the server, then ALTER EXTENSION tegro UPDATE/, 'a library and objects of different versions');
	run_sql(sprintf($update, '1.0'));
}


#
# The network and the provider
#

# with other settings of the server
sub with
{
	my ($settings, $before) = @_;

	set_server($node, $settings);
	my $said = doctor(undef, $before);
	set_server($node, { map { $_ => undef } keys %$settings });
	return $said;
}

# with some other address for the provider
sub at
{
	my ($url, $more) = @_;

	return with({ 'tegro.api_url' => "$url/api" }, "SET tegro.connect_timeout = '9s';\n" . ($more // ''));
}

{
	my ($port) = $sandbox->url =~ /:(\d+)/;
	my $hole = black_hole();
	my @also = ('provider');

	finds(at('https://missing.provider.test:1'), 'network', 'error', qr/during name lookup; nothing was sent/, qr/"getent ahosts missing\.provider\.test" on/, 'a name that does not exist');
	finds(at('https://127.0.0.1:1'), 'network', 'error', qr/while connecting; nothing was sent/, qr{"curl -v https://127\.0\.0\.1:1/api" on .*firewall or proxy}, 'a port where nobody listens');
	finds(at('https://127.0.0.1:' . $hole->port, "SET tegro.connect_timeout = '300ms';\n"), 'network', 'error', qr/while connecting/, qr/firewall or proxy/, 'a firewall that drops');
	finds(at("https://linklocal.provider.test:$port"), 'network', 'error', qr/link-local/, qr/Check tegro.api_url/, 'an address of the own link');

	# the whole takes no longer than tegro.timeout
	my $said = at("https://stuck.provider.test:$port", "SET tegro.connect_timeout = '1min'; SET tegro.timeout = '1s';\n");
	finds($said, 'network', 'error', qr/during name lookup/, qr/resolv\.conf/, 'a name server that does not answer');
	ok($said->{ms} < 3000, "... is waited for no longer than tegro.timeout: $said->{ms} ms");

	# and a cancel ends it
	my $before = time;
	$said = at("https://stuck.provider.test:$port", "SET tegro.connect_timeout = '1min'; SET statement_timeout = '500ms';\n");
	is($said->{sqlstate}, '57014', 'a cancel is not taken for a finding');
	ok($said->{ms} < 3000, "... and ends it at once: $said->{ms} ms");

	foreach my $kind (qw(expired self_signed))
	{
		my $other = sandbox(certificates => $certificates, certificate => $kind);
		finds(at($other->url), 'network', 'error', qr/certificate/i, qr{"openssl s_client -connect 127\.0\.0\.1:\d+ -servername 127\.0\.0\.1 </dev/null" on .*clock.*tegro\.ca_file}, "a certificate that is $kind");
		$other->stop;
	}
	finds(with({ 'tegro.ca_file' => '/nowhere/ca.pem' }), 'network', 'error', qr{/nowhere/ca\.pem}, qr/tegro\.ca_file/, 'a file of authorities that is not there');

	$sandbox->fault('balance', 'answer', status => 403, body => '<html>error 1010</html>');
	finds(doctor(), 'provider', 'error', qr/HTTP 403.*error 1010/, qr/User-Agent/, "the CDN's refusal");
	finds(with({ 'tegro.user_agent' => 'node' }), 'provider', 'error', qr/HTTP 403/, qr/ALTER SYSTEM RESET tegro\.user_agent; SELECT pg_reload_conf\(\);/, '... of a User-Agent');
	finds(doctor(undef, "SET tegro.api_key = '@{[CANARY]}';\n"), 'provider', 'error', qr/Wrong authorization token/, qr/^Copy the API key of shop/, 'a wrong key',
		also => [ 'keys in session', 'secret key' ]);
	$sandbox->fault('balance', 'answer', status => 401, body => '{"type":"error","desc":"no"}');
	finds(doctor(), 'provider', 'error', qr/HTTP 401/, qr/^Copy the API key of shop/, '... told by the status');
	$sandbox->fault('balance', 'answer', status => 200, body => '{"type":"error","desc":"Wrong nonce"}');
	finds(doctor(), 'provider', 'error', qr/Wrong nonce/, qr/check the clock .*nanoseconds/, 'a nonce that is too small');
	$sandbox->fault('balance', 'answer', status => 429, body => 'slow down');
	finds(doctor(), 'provider', 'warning', qr/no more requests/, qr/tegro\.rate_limit/, 'too many requests');
	$sandbox->fault('balance', 'answer', status => 502, body => 'bad gateway');
	finds(doctor(), 'provider', 'error', qr/HTTP 502/, qr/safe to repeat/, 'a gateway that fails');
	$sandbox->fault('balance', 'hold', ms => 20_000);
	$said = doctor(undef, "SET tegro.timeout = '2s';\n");
	finds($said, 'provider', 'error', qr/while waiting for the answer/, qr/safe to repeat/, 'a provider that does not answer');
	ok($said->{ms} < 3000, "... is waited for no longer than tegro.timeout: $said->{ms} ms");
}

# clocks
{
	my $shift = 0;

	foreach my $case ([ -7200, 'warning', qr/7\d\d\d s ahead of the provider's/ ], [ 7200, 'warning', qr/7\d\d\d s behind the provider's/ ],
		[ 0, 'ok', qr/within 30 s/ ], [ undef, 'skipped', qr/^No answer came that tells/ ])
	{
		my ($seconds, $status, $detail) = @$case;
		my $server = raw_server(
			sub {
				my ($socket) = @_;
				read_request($socket) or return;
				my $body = '{"type":"success","desc":"","data":{}}';
				my @t = gmtime(time + ($seconds // 0));
				my $date = sprintf('%s, %02d %s %d %02d:%02d:%02d GMT', (qw(Sun Mon Tue Wed Thu Fri Sat))[ $t[6] ], $t[3],
					(qw(Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec))[ $t[4] ], $t[5] + 1900, @t[ 2, 1, 0 ]);
				print {$socket} "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n", defined $seconds ? "Date: $date\r\n" : '',
				  'Content-Length: ', length $body, "\r\n\r\n$body";
				$socket->flush;
			});
		my $said = at("http://127.0.0.1:" . $server->port);
		finds($said, 'clock', $status, $detail, $status eq 'warning' ? qr/"timedatectl set-ntp true" on/ : qr/^$/, 'a clock that differs by ' . ($seconds // 'who knows'));
		$server->stop;
	}
}


#
# Delivery
#

my $origin;

# before any worker has run
{
	my $session = session($node);
	$origin = $session->query(<<'END')->{out};
BEGIN;
SELECT tegro_enqueue('createOrder', '{"order_id": "rolled back", "currency": "RUB", "amount": 1}') \g /dev/null
SELECT origin FROM tegro_outbox;
ROLLBACK;
END
	run_sql(<<"END");
INSERT INTO tegro_outbox (shop_id, method, params, reference, next_at, enqueued_by, origin)
VALUES ('@{[SHOP_ID]}', 'createOrder', '{"order_id": "o0", "currency": "RUB", "amount": 1}', 'o0', now() - interval '5 min', current_user::regrole, '$origin')
END
	finds(doctor(), 'worker', 'error', qr/^No delivery worker runs, and requests are due/, qr/^CALL tegro_deliver\(\)/, 'requests that are due, and no worker',
		also => ['backlog']);
	query($node, 'CALL tegro_deliver()');
	is($session->query("SELECT state FROM tegro_outbox")->{out}, 'accepted', 'the command of the hint delivers them');
	$session->query('DELETE FROM tegro_outbox; DELETE FROM tegro_event; ALTER TABLE tegro_outbox ALTER id RESTART');
	$session->close;
}

{
	configure('tegro.delivery = off');
	finds(doctor(), 'delivery', 'warning', qr/is off/, qr/tegro.delivery = on/, 'delivery that is off');
	run_sql(<<'END');
SELECT tegro_enqueue('createOrder', jsonb_build_object('order_id', 'o' || i, 'currency', 'RUB', 'amount', 1)) FROM generate_series(1, 3) AS i;
UPDATE tegro_outbox SET next_at = now() - interval '5 min';
END
	finds(doctor(), 'backlog', 'warning', qr/^Requests that are due: 3, the first for 3\d\d s/, qr/"delivery"/, '... while requests wait', also => ['delivery']);
	restore();
	query($node, 'CALL tegro_deliver()');

	# one that is late though the worker runs
	run_sql(q{SELECT tegro_enqueue('createOrder', '{"order_id": "wakes", "currency": "RUB", "amount": 1}')});
	my $session = session($node);
	ok(wait_until(sub { $session->query("SELECT state FROM tegro_outbox WHERE reference = 'wakes'")->{out} eq 'accepted' }), 'the worker runs');
	run_sql(qq{INSERT INTO tegro_outbox (shop_id, method, params, reference, next_at, enqueued_by, origin)
	  SELECT 'late', 'createOrder', '{}', 'late', now() - interval '2 min', current_user::regrole, '$origin'});
	my $said = doctor($session);
	is((rows_of($said, 'worker'))[0]{detail}, 'The delivery worker of this database runs.', 'a worker that runs is seen');
	finds($said, 'backlog', 'warning', qr/^Requests that are due: 1, the first for 1[2-9]\d s/, qr/tegro_outbox_summary.*pauses/, 'and that it is late');
	run_sql("DELETE FROM tegro_outbox WHERE reference = 'late'");
	$session->close;

	# a copy
	configure('tegro.delivery = off');
	run_sql(q{SELECT tegro_enqueue('createOrder', '{"order_id": "copied", "currency": "RUB", "amount": 1}', deliver_after => now() + interval '1 h')});
	my $sets = sub { run_sql("UPDATE tegro_outbox SET origin = $_[0] WHERE reference = 'copied'"); };
	$sets->(q{regexp_replace(origin, '^\d+', '1')});
	my $row = finds(doctor(), 'origin', 'error', qr/another origin are set aside: 1\. .*may be a copy, and a copy must not pay/, qr/SELECT tegro_take_over\('why'\)/, 'a copy', also => ['delivery']);
	my ($command) = ($row->{hint} // '') =~ /(SELECT tegro_take_over\('why'\);)/;
	query($node, $command);
	is((rows_of(doctor(), 'origin'))[0]{status}, 'ok', 'the command of the hint makes it deliver');
	$sets->(q{regexp_replace(origin, '/(\d+)/(\d+)/', '/\1/0/')});
	like((rows_of(doctor(), 'origin'))[0]{detail}, qr/before a failover/, 'a successor is none');
	run_sql("DELETE FROM tegro_outbox WHERE reference = 'copied'");

	# its row is missing
	run_sql('DELETE FROM tegro_origin');
	is(query($node, q{SELECT tegro_enqueue('createOrder', '{"order_id": "o", "currency": "RUB", "amount": 1}')})->{sqlstate}, 'TG006', 'nothing is enqueued without a row in tegro_origin');
	$row = finds(doctor(), 'origin', 'error', qr/tegro_origin is empty/, qr/tegro_take_over\('why'\)/, 'a row that is missing', also => ['delivery']);
	query($node, $command);
	is((rows_of(doctor(), 'origin'))[0]{status}, 'ok', 'the command of the hint writes it');
	my $number = $node->safe_psql('postgres', 'SELECT number FROM tegro_origin');
	$origin =~ s{/[0-9a-f]{32}/}{/$number/};
	restore();
}

# what waits for a person
{
	run_sql(<<'END');
UPDATE tegro_outbox SET state = 'review', message = 'not found', enqueued_at = now() - interval '2 h' WHERE reference IN ('o1', 'o2');
END
	my $row = finds(doctor(), 'review', 'warning', qr/^Requests in review: 2 \(1, 2\), the oldest for 02:0\d:\d\d\. They may have been paid\. Those that show up with Tegro within a day are accepted by themselves/, qr/tegro_resolve\(1, 'accepted', 'how you know'\)/,
		'requests in review');
	run_sql("SELECT tegro_resolve(1, 'accepted', 'a test'), tegro_resolve(2, 'accepted', 'a test')");

	run_sql(<<'END');
UPDATE tegro_outbox SET callback = 'f()', callback_state = 'failed', callback_message = 'division by zero' WHERE id = 1;
END
	finds(doctor(), 'callbacks', 'error', qr/^Callbacks that were given up: 1\. Request 1: division by zero/, qr/tegro_refresh\(1\)/, 'a callback that was given up');
	run_sql(<<'END');
UPDATE tegro_outbox SET callback_state = 'waiting', callback_at = now() + interval '1 h' WHERE id = 1;
END
	finds(doctor(), 'callbacks', 'warning', qr/^Callbacks that failed, and are called again: 1\. Request 1: division by zero/, qr/Mend the function/, 'a callback that fails');
	run_sql('UPDATE tegro_outbox SET callback = NULL, callback_state = NULL, callback_message = NULL, callback_at = NULL');

	run_sql(<<'END');
UPDATE tegro_outbox SET state = 'unknown', failures = 7, next_at = now() + interval '1 h', enqueued_at = now() - interval '3 h', message = 'no API key' WHERE id = 2;
END
	finds(doctor(), 'failing', 'warning', qr/^Requests older than ten minutes .*: 1, the oldest for 03:0\d:\d\d\. Request 2: no API key/, qr/tegro_refresh\(2\)/, 'a request that fails for hours');
	run_sql("UPDATE tegro_outbox SET state = 'accepted', failures = 0, next_at = NULL");
}

# notifications
{
	run_sql(<<"END");
INSERT INTO tegro_notification (shop_id, order_id, status, test, state, amount, currency, fields, role, waiting_since, origin, message)
SELECT 'shop', 'n1', '1', false, 'waiting', 1, 'RUB', '{}', current_user::regrole, now() - interval '9 min', '$origin', 'no answer';
END
	is((rows_of(doctor(), 'notifications'))[0]{status}, 'ok', 'a notification that waits for nine minutes');
	run_sql("UPDATE tegro_notification SET waiting_since = now() - interval '11 min'");
	finds(doctor(), 'notifications', 'warning', qr/^Notifications that wait for more than ten minutes: 1; in review: 0\. Notification 1: no answer/,
		qr/tegro_retry_notification\(1\)/, '... for eleven');
	run_sql("UPDATE tegro_notification SET state = 'review', message = 'another amount'");
	finds(doctor(), 'notifications', 'warning', qr/minutes: 0; in review: 1\. Notification 1: another amount/, qr/SELECT id, order_id/, 'one in review');
	run_sql("UPDATE tegro_notification SET state = 'confirmed', callback_state = 'failed', callback_message = 'division by zero'");
	finds(doctor(), 'notifications', 'error', qr/given up: 1; .*\. Notification 1: division by zero/, qr/retry_notification\(1\)/, 'one whose callback was given up');
	run_sql("UPDATE tegro_notification SET callback_state = 'waiting', callback_at = now() + interval '1 h'");
	finds(doctor(), 'notifications', 'warning', qr/given up: 0; .* called again: 1\. Notification 1: division by zero/, qr/^Mend the function/, 'one whose callback fails');
	run_sql('DELETE FROM tegro_notification');
}

# what is to be called when an order is paid
{
	run_sql(<<'END');
CREATE ROLE shopkeeper;
CREATE SCHEMA shop;
GRANT USAGE ON SCHEMA shop TO shopkeeper;
CREATE FUNCTION shop.paid(id bigint, state text, reference text, answer jsonb) RETURNS void BEGIN ATOMIC END;
GRANT EXECUTE ON FUNCTION tegro_on_payment(regprocedure, text) TO shopkeeper;
SET ROLE shopkeeper;
SELECT tegro_on_payment('shop.paid(bigint,text,text,jsonb)');
END
	my $registered = sub { my ($row) = rows_of(doctor(), 'payment callback'); return "$row->{status}: $row->{detail}"; };

	is($registered->(), 'ok: What is registered can be called.', 'a function that is to be called');
	my @mends = (
		[ 'REVOKE EXECUTE ON FUNCTION shop.paid FROM PUBLIC', qr/"shopkeeper", which registered it, may not execute it any more/, 'GRANT EXECUTE ON FUNCTION shop.paid TO shopkeeper' ],
		[ 'REVOKE USAGE ON SCHEMA shop FROM shopkeeper', qr/may not execute it any more/, 'GRANT USAGE ON SCHEMA shop TO shopkeeper' ],
		[ 'ALTER FUNCTION shop.paid RENAME TO other', qr/^Nobody will be told of payments of shop "@{[SHOP_ID]}": shop\.paid\(.*\) was .*there is no such function any more/, 'ALTER FUNCTION shop.other RENAME TO paid' ],
		[ 'DROP OWNED BY shopkeeper; DROP ROLE shopkeeper', qr/its role \(\d+\) was dropped/, 'DELETE FROM tegro_payment_callback' ]);
	foreach my $case (@mends)
	{
		my ($break, $detail, $mend) = @$case;

		run_sql($break);
		finds(doctor(), 'payment callback', 'error', $detail, qr/register another with tegro_on_payment/, $break);
		run_sql($mend);
		like($registered->(), qr/^ok: /, "... $mend");
	}
}


# a lease in which nothing can be sent, as the check of settings says
{
	configure("tegro.claim_timeout = '1s'");
	$sandbox->fault('createOrder', 'hold', ms => 50);
	query($node, q{SELECT tegro_enqueue('createOrder', '{"order_id": "short lease", "currency": "RUB", "amount": 1}'); CALL tegro_deliver()});
	is(query($node, q{SELECT string_agg(DISTINCT outcome, ' ') FROM tegro_event JOIN tegro_outbox ON id = outbox_id WHERE reference = 'short lease'})->{out}
		  =~ /^(not sent|unknown)/, 1, 'with a lease of a second no answer is waited for');
	restore();
	query($node, q{SELECT tegro_refresh(id) FROM tegro_outbox WHERE reference = 'short lease' AND state <> 'accepted'; CALL tegro_deliver()});
	my $session = session($node);
	ok(wait_until(sub { $session->query("SELECT state FROM tegro_outbox WHERE reference = 'short lease'")->{out} eq 'accepted' }), '... until there is time again');
	$session->close;
}


#
# Durability and size
#

{
	configure('fsync = off');
	finds(doctor(), 'durability', 'error', qr/^fsync is off/, qr/fsync = on/, 'fsync that is off');
	restore();
	finds(doctor(undef, "SET synchronous_commit = off;\n"), 'durability', 'warning', qr/^synchronous_commit is off/, qr/synchronous_commit = on/, 'synchronous_commit that is off');
	configure("synchronous_standby_names = 'gone'");
	finds(doctor(), 'synchronous standby', 'error', qr/is gone, and none is connected/, qr/synchronous_standby_names = ''/, 'a synchronous standby that is gone');
	restore();

	run_sql("UPDATE pg_class SET reltuples = 2e7 WHERE relname = 'tegro_outbox'");
	finds(doctor(), 'size', 'warning', qr/some 20000000 rows/, qr/tegro\.retention/, 'an outbox that grows for ever');
	run_sql("UPDATE pg_class SET reltuples = 3 WHERE relname = 'tegro_outbox'");
	run_sql('ALTER TABLE tegro_outbox SET (autovacuum_enabled = false)');
	my $row = finds(doctor(), 'size', 'warning', qr/^Autovacuum is turned off/, qr/^ALTER TABLE public\.tegro_outbox RESET/, 'autovacuum that is off');
	run_sql($row->{hint});
	run_sql(<<'END');
INSERT INTO tegro_outbox (shop_id, method, params, reference, state, next_at, enqueued_by, origin)
SELECT 'dead', 'createOrder', '{}', i, 'accepted', NULL, current_user::regrole, '' FROM generate_series(1, 11000) AS i;
DELETE FROM tegro_outbox WHERE shop_id = 'dead';
END
	my $session = session($node);
	ok(wait_until(sub { $session->query("SELECT pg_stat_get_dead_tuples('tegro_outbox'::regclass) > 10000")->{out} eq 't' }), 'rows are dead');
	$session->close;
	finds(doctor(), 'size', 'warning', qr/^The outbox has \d+ dead rows/, qr/^VACUUM \(VERBOSE\) public\.tegro_outbox;/, 'dead rows that are not removed');
	run_sql('VACUUM tegro_outbox');
}

# a standby, and the slot that it leaves behind
{
	run_sql("SELECT pg_create_physical_replication_slot('standby')");
	$node->backup('base');
	my $standby = PostgreSQL::Test::Cluster->new('standby');
	$standby->init_from_backup($node, 'base', has_streaming => 1);
	$standby->append_conf('postgresql.conf', "primary_slot_name = 'standby'\nhot_standby_feedback = on\nwal_receiver_status_interval = '1s'\n");
	$standby->start;
	my $said = doctor(undef, '', node => $standby);
	finds($said, 'delivery', 'ok', qr/^This is a standby/, qr/^$/, 'a standby delivers nothing');
	is((rows_of($said, 'provider'))[0]{status}, 'ok', 'and can ask');

	configure("synchronous_standby_names = 'standby'");
	ok(wait_until(sub { (rows_of(doctor(), 'synchronous standby'))[0]{status} eq 'ok' }), 'a synchronous standby that is there');
	restore();

	my $session = session($node);
	ok(wait_until(sub { $session->query('SELECT xmin IS NOT NULL FROM pg_replication_slots')->{out} eq 't' }), 'the standby holds rows');
	$standby->stop;
	ok(wait_until(sub { $session->query('SELECT active FROM pg_replication_slots')->{out} eq 'f' }), 'and is gone');
	$session->close;
	my $row = finds(doctor(), 'old snapshots', 'warning', qr/slot standby holds back/, qr/pg_drop_replication_slot\('standby'\)/, 'a slot that nobody uses');
	run_sql($row->{hint} =~ /(SELECT pg_drop.*)/);
	is((rows_of(doctor(), 'old snapshots'))[0]{status}, 'ok', 'the command of the hint drops it');
}


#
# Rights: what others were granted, own, and have put beside or onto the
# extension's objects.  The commands of the hints undo it.
#

# Breaks something.  The doctor must find all cases and nothing else, and be
# content once the commands of its hints have run.  A case is [check, status,
# detail, hint].
sub mended
{
	my ($name, $break, @cases) = @_;

	subtest $name => sub {
		run_sql($break);
		my $said = doctor();
		foreach my $case (@cases)
		{
			my ($check, $status, $detail, $hint) = @$case;
			my ($row) = grep { $_->{status} eq $status && $_->{detail} =~ $detail } rows_of($said, $check);

			ok($row, "\"$check\": $status, $detail") or diag(explain([ rows_of($said, $check) ]));
			like(($row // {})->{hint} // '', $hint, 'the hint');
		}
		my @wrong = grep { $_->{status} =~ /^(warning|error)$/ } @{ $said->{rows} };
		is(scalar(@wrong), scalar(grep { $_->[1] ne 'ok' } @cases), 'nothing else is wrong') or diag(explain(\@wrong));
		foreach my $row (@wrong)
		{
			# advice may follow the commands
			my ($commands) = $row->{hint} =~ /^(.*?;)(?: (?:First|or,) .*)?$/;
			run_sql($commands);
		}
		is_deeply([ grep { $_->{status} =~ /^(warning|error)$/ } @{ doctor()->{rows} } ], [], 'the commands of the hints undo it');
	};
	return;
}

{
	run_sql(<<'END');
CREATE ROLE app LOGIN;
CREATE ROLE "Own er" LOGIN;
CREATE ROLE auditor LOGIN BYPASSRLS;
CREATE ROLE auditors; GRANT auditors TO auditor;
CREATE SCHEMA "App s" AUTHORIZATION app;
END

	mended(
		'fault 91: GRANT ALL ON ALL TABLES and SEQUENCES',
		'GRANT ALL ON ALL TABLES IN SCHEMA public TO app; GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO app',
		[   'rights', 'error', qr/^Role app has REFERENCES, TRIGGER, TRUNCATE on public\.tegro_event, .*public\.tegro_outbox, .*run its own code as the extension's owner/,
			qr/^REVOKE REFERENCES, TRIGGER, TRUNCATE ON TABLE public\.tegro_event, .*public\.tegro_outbox, .* FROM app;$/
		],
		[   'rights', 'error', qr/^Role app has DELETE, INSERT, UPDATE, REFERENCES, TRIGGER, TRUNCATE on public\.tegro_origin\. Row security does not prevent/,
			qr/^REVOKE .* ON TABLE public\.tegro_origin FROM app;$/
		],
		[ 'rights', 'warning', qr/^Role app has DELETE, INSERT, UPDATE(, MAINTAIN)? on public\.tegro_event.*Only row security/, qr/^REVOKE DELETE, INSERT, UPDATE(, MAINTAIN)? ON TABLE/ ],
		($node->pg_version >= 17 ? [ 'rights', 'warning', qr/^Role app has MAINTAIN on public\.tegro_origin\./, qr/^REVOKE MAINTAIN ON TABLE/ ] : ()),
		[ 'rights', 'warning', qr/^Role app has .* on public\.tegro_outbox_summary, public\.tegro_stat\. No role needs/, qr/^REVOKE/ ],
		[ 'rights', 'error', qr/^Role app has UPDATE on .*tegro_outbox_id_seq/, qr/^REVOKE UPDATE ON SEQUENCE .* FROM app;$/ ],
		[ 'rights', 'warning', qr/^Role app has USAGE on .*_seq/, qr/^REVOKE USAGE ON SEQUENCE/ ],
		[ 'readers', 'ok', qr/^Roles that read public\.tegro_origin: app\.$/, qr/^$/ ]);
	run_sql('REVOKE ALL ON ALL TABLES IN SCHEMA public FROM app; REVOKE ALL ON ALL SEQUENCES IN SCHEMA public FROM app');
	foreach my $privilege (qw(TRIGGER REFERENCES TRUNCATE))
	{
		mended("fault 91: $privilege on one table", "GRANT $privilege ON tegro_event TO \"Own er\" WITH GRANT OPTION",
			[ 'rights', 'error', qr/^Role "Own er" has $privilege on public\.tegro_event\./, qr/^REVOKE $privilege ON TABLE public\.tegro_event FROM "Own er" CASCADE;$/ ]);
	}
	mended(
		'rights on a column, and of every role',
		'GRANT REFERENCES (id) ON tegro_outbox TO app; GRANT REFERENCES (id) ON tegro_notification TO PUBLIC',
		[   'rights', 'error',
			qr/^Role app has REFERENCES on public\.tegro_outbox\. .*run its own code as the extension's owner at once/,
			qr/^REVOKE REFERENCES ON TABLE/
		],
		[ 'rights', 'error', qr/^Every role has rights on public\.tegro_notification\.$/, qr/^REVOKE ALL ON TABLE public\.tegro_notification FROM PUBLIC;$/ ]);
	mended(
		'rights of a role whose member passes row security',
		'GRANT SELECT, DELETE ON tegro_outbox TO auditors',
		[ 'rights', 'error', qr/^Role auditors has DELETE .*Row security does not prevent/, qr/^REVOKE DELETE ON/ ],
		[ 'rights', 'warning', qr/^Role auditors has SELECT on public\.tegro_outbox\. With BYPASSRLS/, qr/^REVOKE SELECT ON/ ],
		[ 'readers', 'ok', qr/\(BYPASSRLS\): auditor\.$/, qr/^$/ ]);
	mended('a role that writes all tables', 'GRANT pg_write_all_data TO app',
		[ 'rights', 'warning', qr/^Role app is a member of pg_write_all_data/, qr/^REVOKE pg_write_all_data FROM app;$/ ]);
	mended(
		'rights on settings',
		<<'END',
GRANT ALTER SYSTEM ON PARAMETER tegro.api_url TO app WITH GRANT OPTION;
GRANT ALTER SYSTEM ON PARAMETER tegro.timeout TO app;
GRANT SET ON PARAMETER tegro.secret_key TO PUBLIC;
GRANT SET ON PARAMETER tegro.api_key TO app, "Own er";
GRANT SET ON PARAMETER tegro.timeout TO app;
END
		[   'rights', 'error', qr/^Role app can change tegro\.api_url in the configuration file\. That decides where signed requests go/,
			qr/^REVOKE ALTER SYSTEM ON PARAMETER tegro\.api_url FROM app CASCADE;$/
		],
		[ 'rights', 'warning', qr/^Role app can change tegro\.timeout/, qr/^REVOKE ALTER SYSTEM ON PARAMETER tegro\.timeout FROM app;$/ ],
		[ 'rights', 'error', qr/^Every role can set tegro\.secret_key/, qr/^REVOKE SET ON PARAMETER tegro\.secret_key FROM PUBLIC;$/ ],
		[   'payers', 'ok', qr/^Roles that can set tegro\.api_key, and so decide whose account their calls act for: "Own er", app\.$/,
			qr/^REVOKE SET ON PARAMETER tegro\.api_key FROM "Own er"; REVOKE SET ON PARAMETER tegro\.api_key FROM app;$/
		]);
	run_sql((rows_of(doctor(), 'payers'))[0]{hint});
	run_sql('REVOKE SET ON PARAMETER tegro.timeout FROM app');
	is((rows_of(doctor(), 'payers'))[0]{detail}, 'Only superusers and the owner can pay out or decide on payouts.',
		'the command of the hint takes the right to set a key');

	run_sql('GRANT pg_read_all_data TO auditor');
	is((rows_of(doctor(), 'readers'))[0]{detail}, 'Roles that read the requests of all roles (BYPASSRLS): auditor.',
		'a role that reads all tables, and passes row security');
	run_sql('REVOKE pg_read_all_data FROM auditor; GRANT pg_read_all_data TO app');
	is((rows_of(doctor(), 'readers'))[0]{detail}, 'Each role sees only its own requests.', 'one that does not pass it is none');
	run_sql('REVOKE pg_read_all_data FROM app');

	# names that a terminal would obey
	run_sql(qq{SET ROLE app; CREATE FUNCTION "App s".tegro_balance("a\e[2J\nb \xe2\x80\xae" text) RETURNS text LANGUAGE sql AS 'SELECT NULL::text'});
	my ($odd) = rows_of(doctor(), 'look-alikes');
	like($odd->{detail}, qr/a\\x1b\[2J\\x0ab \\xe2\\x80\\xae/, 'a name with control characters is shown escaped');
	like($odd->{hint}, qr/a\\x1b\[2J\\x0ab \\xe2\\x80\\xae.*the command does not work as it is/, 'and the hint says that its command is not one');
	run_sql('DROP FUNCTION "App s".tegro_balance(text)');

	subtest 'SELECT is no problem: row security holds' => sub {
		run_sql('GRANT SELECT ON ALL TABLES IN SCHEMA public TO app; GRANT SELECT (id, state) ON tegro_outbox TO auditor');
		is_deeply([ grep { $_->{status} ne 'ok' } @{ doctor()->{rows} } ], [], 'all is well');
		run_sql('REVOKE ALL ON ALL TABLES IN SCHEMA public FROM app, auditor');
	};

	subtest 'roles that can pay out, or decide on payouts' => sub {
		run_sql(<<'END');
CREATE ROLE boss; GRANT app TO boss;
GRANT EXECUTE ON FUNCTION tegro_create_withdrawal(jsonb), tegro_take_over(text) TO app;
GRANT EXECUTE ON FUNCTION tegro_resolve(bigint, text, text), tegro_retry(bigint) TO boss;
GRANT EXECUTE ON FUNCTION tegro_create_withdrawal_trigger() TO "Own er";
GRANT USAGE, CREATE ON SCHEMA "App s" TO "Own er";
SET ROLE "Own er";
CREATE TABLE "App s"."Re funds" (number int, amount numeric);
CREATE TRIGGER "pay out" AFTER INSERT ON "App s"."Re funds" FOR EACH ROW EXECUTE FUNCTION public.tegro_create_withdrawal_trigger('{"payment_id": "$number"}');
END
		is_deeply(
			[ sort map { "$_->{status}: $_->{detail}" } rows_of(doctor(), 'payers') ],
			[   'ok: Roles that can have failed payouts sent again (public.tegro_retry(bigint)): boss.',
				'ok: Roles that can have rows of their tables pay out (public.tegro_create_withdrawal_trigger()): "Own er".',
				'ok: Roles that can let a copy of a database deliver (public.tegro_take_over(text)): app, boss.',
				'ok: Roles that can pay out (public.tegro_create_withdrawal(jsonb)): app, boss.',
				'ok: Roles that can resolve payouts that are in doubt (public.tegro_resolve(bigint,text,text)): boss.',
				'ok: Rows of "App s"."Re funds" pay out as role "Own er", by trigger "pay out".'
			],
			'they are listed');
		run_sql('DROP TABLE "App s"."Re funds"; REVOKE ALL ON ALL ROUTINES IN SCHEMA public FROM app, boss, "Own er"');
	};

	# a shop's table whose trigger cannot fire
	my $insert = q{SET SESSION AUTHORIZATION app; INSERT INTO "App s".orders VALUES (1, 2)};
	run_sql(<<'END');
GRANT EXECUTE ON FUNCTION tegro_create_order_trigger() TO "Own er";
SET ROLE "Own er";
CREATE TABLE "App s".orders (number int, total numeric) PARTITION BY LIST (number);
CREATE TABLE "App s".first PARTITION OF "App s".orders DEFAULT;
CREATE TRIGGER ask AFTER INSERT ON "App s".orders FOR EACH ROW EXECUTE FUNCTION public.tegro_create_order_trigger('{"order_id": "$number", "amount": "$total", "currency": "RUB"}');
GRANT INSERT ON "App s".orders TO app;
END
	is((rows_of(doctor(), 'triggers'))[0]{status}, 'ok', 'writers of a table with a trigger need only INSERT');
	is(query($node, "BEGIN; $insert; ROLLBACK")->{sqlstate}, '', '... as an insert shows');
	run_sql('GRANT ALL ON "App s".orders TO app');
	is(query($node, $insert)->{sqlstate}, '42501', 'with GRANT ALL an insert fails');
	mended(
		'fault 73: GRANT ALL on a table with a trigger of ours, before the first insert',
		'SELECT',
		[ 'triggers', 'error', qr/^Trigger ask of table "App s"\.first fails for each row: app can create triggers on table "App s"\.orders/, qr/^REVOKE TRIGGER ON TABLE "App s"\.orders FROM app; First/ ],
		[ 'triggers', 'error', qr/^Trigger ask of table "App s"\.orders fails/, qr/^REVOKE TRIGGER ON TABLE "App s"\.orders FROM app; First/ ]);
	is(query($node, "BEGIN; $insert; ROLLBACK")->{sqlstate}, '', '... and an insert works once that is undone');
	mended('a partitioned table of another owner', 'ALTER TABLE ONLY "App s".orders OWNER TO app',
		[ 'triggers', 'error', qr/^Trigger ask of table "App s"\.first fails for each row: the partitioned table "App s"\.orders belongs to role app/, qr/^ALTER TABLE "App s"\.orders OWNER TO "Own er"; First/ ]);
	run_sql('ALTER TABLE "App s".orders OWNER TO app; ALTER TABLE "App s".orders DISABLE TRIGGER ask');
	is((rows_of(doctor(), 'triggers'))[0]{status}, 'ok', 'a disabled trigger is not one that fails');
	run_sql('DROP TABLE "App s".orders; REVOKE ALL ON ALL ROUTINES IN SCHEMA public FROM "Own er"');

	mended(
		'objects of other roles',
		'ALTER FUNCTION tegro_order(text) OWNER TO app; ALTER TABLE tegro_event OWNER TO "Own er"; ALTER VIEW tegro_stat OWNER TO app; CREATE ROLE root SUPERUSER; ALTER FOREIGN DATA WRAPPER tegro_fdw OWNER TO root',
		[ 'owners', 'error', qr/^public\.tegro_order\(text\) belongs to role app, the extension to role \w+\.$/, qr/^ALTER ROUTINE public\.tegro_order\(text\) OWNER TO/ ],
		[ 'owners', 'error', qr/^public\.tegro_event belongs to role "Own er"/, qr/^ALTER TABLE public\.tegro_event OWNER TO/ ],
		[ 'owners', 'error', qr/^public\.tegro_stat belongs to role app/, qr/^ALTER TABLE public\.tegro_stat OWNER TO/ ],
		[ 'owners', 'warning', qr/^tegro_fdw belongs to role root/, qr/^ALTER FOREIGN DATA WRAPPER tegro_fdw OWNER TO/ ]);
	subtest 'an owner of the extension that is no superuser' => sub {
		# as REASSIGN OWNED would leave it
		my $owned = "UPDATE pg_extension SET extowner = %s WHERE extname = 'tegro'";
		run_sql(sprintf($owned, q{'"Own er"'::regrole}));
		my ($row) = grep { $_->{detail} =~ /^The extension belongs to role "Own er", which is not a superuser/ } rows_of(doctor(), 'owners');
		is(($row // {})->{status}, 'warning', 'it is told');
		like(($row // {})->{hint}, qr/^ALTER ROLE "Own er" NOLOGIN;.* REASSIGN OWNED BY "Own er" TO \w+;/, 'the hint');
		run_sql(sprintf($owned, '10'));
	};

	mended(
		'roles with CREATE on the schema',
		'GRANT CREATE ON SCHEMA public TO PUBLIC; GRANT CREATE ON SCHEMA public TO "Own er" WITH GRANT OPTION',
		[ 'schema', 'error', qr/^Every role can create functions in schema public/, qr/^REVOKE CREATE ON SCHEMA public FROM PUBLIC;$/ ],
		[ 'schema', 'error', qr/^Role "Own er" can create functions/, qr/^REVOKE CREATE ON SCHEMA public FROM "Own er" CASCADE;$/ ]);
	mended('a schema of another role', 'ALTER SCHEMA public OWNER TO app', [ 'schema', 'error', qr/^Schema public belongs to role app/, qr/^ALTER SCHEMA public OWNER TO/ ]);
	run_sql('ALTER SCHEMA public OWNER TO pg_database_owner');
	mended('a schema of the owner of the database', 'ALTER DATABASE postgres OWNER TO "Own er"',
		[ 'schema', 'warning', qr/^Schema public belongs to role pg_database_owner, that is "Own er", the owner of this database/, qr/^ALTER SCHEMA public OWNER TO/ ]);
	run_sql('DO $$ BEGIN EXECUTE format(\'ALTER DATABASE postgres OWNER TO %I\', current_user); END $$; ALTER SCHEMA public OWNER TO pg_database_owner');

	mended(
		'fault 95: functions that are called in place of ours',
		<<'END',
CREATE SCHEMA tools;
CREATE FUNCTION tools.tegro_payment_url(text) RETURNS text LANGUAGE sql AS 'SELECT $1';
CREATE AGGREGATE tools.tegro_orders(int) (sfunc = int4pl, stype = int);
CREATE AGGREGATE tools.tegro_shops(ORDER BY int) (sfunc = int4pl, stype = int);
CREATE AGGREGATE tools.tegro_orders(VARIADIC "any" ORDER BY VARIADIC "any") (sfunc = ordered_set_transition_multi,
	stype = internal, finalfunc = rank_final, finalfunc_extra, hypothetical);
CREATE AGGREGATE tools.tegro_modules(*) (sfunc = int8inc, stype = int8, initcond = '0');
CREATE PROCEDURE tools.tegro_deliver(text, OUT int) LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION public.tegro_balance(text) RETURNS text LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION pg_temp.tegro_shops(text) RETURNS text LANGUAGE sql AS 'SELECT $1';
SET ROLE app;
CREATE FUNCTION "App s".tegro_create_withdrawal(params text) RETURNS jsonb LANGUAGE sql AS 'SELECT NULL::jsonb';
END
		[ 'look-alikes', 'error', qr/^"App s"\.tegro_create_withdrawal\(params text\) of role app has the name/, qr/^DROP ROUTINE "App s"\.tegro_create_withdrawal\(params text\); or, .*ALTER ROUTINE .* RENAME TO/ ],
		[ 'look-alikes', 'error', qr/^public\.tegro_balance\(text\) of role/, qr/^DROP ROUTINE public\.tegro_balance\(text\);/ ],
		[ 'look-alikes', 'warning', qr/^tools\.tegro_payment_url\(text\) of role/, qr/^DROP ROUTINE/ ],
		[ 'look-alikes', 'warning', qr/^tools\.tegro_orders\(integer\) of role/, qr/^DROP AGGREGATE/ ],
		[ 'look-alikes', 'warning', qr/^tools\.tegro_shops\(ORDER BY integer\) of role/, qr/^DROP AGGREGATE/ ],
		[ 'look-alikes', 'warning', qr/^tools\.tegro_orders\(VARIADIC "any" ORDER BY VARIADIC "any"\)/, qr/^DROP AGGREGATE/ ],
		[ 'look-alikes', 'warning', qr/^tools\.tegro_modules\(\*\) of role/, qr/^DROP AGGREGATE/ ],
		[ 'look-alikes', 'warning', qr/^tools\.tegro_deliver\(.*text.*\) of role/, qr/^DROP ROUTINE/ ]);

	mended(
		'fault 91: triggers, rules, policies and foreign keys on our tables',
		<<'END',
CREATE FUNCTION "App s".own() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
ALTER FUNCTION "App s".own() OWNER TO app;
CREATE TRIGGER "t 1" AFTER INSERT ON tegro_outbox FOR EACH STATEMENT EXECUTE FUNCTION "App s".own();
CREATE TRIGGER pay BEFORE UPDATE ON tegro_notification FOR EACH ROW EXECUTE FUNCTION tegro_create_withdrawal_trigger('{}');
CREATE RULE "r 1" AS ON INSERT TO tegro_event DO ALSO NOTIFY something;
CREATE POLICY more ON tegro_outbox USING (true);
CREATE POLICY idle ON tegro_origin USING (true);
ALTER POLICY tegro_event_own ON tegro_event USING (true);
ALTER POLICY tegro_notification_own ON tegro_notification TO app;
ALTER TABLE tegro_payment_callback DISABLE ROW LEVEL SECURITY;
ALTER TABLE tegro_origin FORCE ROW LEVEL SECURITY;
CREATE TABLE "App s".heir () INHERITS (tegro_event);
CREATE TABLE "App s".child (
	a bigint CONSTRAINT "k 1" REFERENCES tegro_outbox ON DELETE CASCADE,
	b bigint CONSTRAINT k2 REFERENCES tegro_outbox ON UPDATE SET NULL,
	c bigint CONSTRAINT k3 REFERENCES tegro_notification ON DELETE SET DEFAULT,
	d bigint CONSTRAINT plain REFERENCES tegro_outbox);
END
		[ 'tables', 'error', qr/^Trigger "t 1" of table public\.tegro_outbox is not the extension's: it runs "App s"\.own\(\), of role app,/, qr/^DROP TRIGGER "t 1" ON public\.tegro_outbox;$/ ],
		[ 'tables', 'error', qr/^Trigger pay of table public\.tegro_notification is not the extension's/, qr/^DROP TRIGGER pay ON/ ],
		[ 'tables', 'error', qr/^Rule "r 1" of public\.tegro_event/, qr/^DROP RULE "r 1" ON public\.tegro_event;$/ ],
		[ 'tables', 'error', qr/^Policy more of table public\.tegro_outbox is not the extension's\./, qr/^DROP POLICY more ON public\.tegro_outbox;$/ ],
		[ 'tables', 'warning', qr/^Policy idle of table public\.tegro_origin is not the extension's\./, qr/^DROP POLICY idle ON public\.tegro_origin;$/ ],
		[ 'tables', 'error', qr/^Policy tegro_event_own of .* any more/, qr/^DROP POLICY .*; CREATE POLICY tegro_event_own ON public\.tegro_event FOR SELECT USING/ ],
		[ 'tables', 'error', qr/^Policy tegro_notification_own of .* any more/, qr/^DROP POLICY .*; CREATE POLICY/ ],
		[ 'tables', 'error', qr/^Row security is off for table public\.tegro_payment_callback/, qr/^ALTER TABLE public\.tegro_payment_callback ENABLE ROW LEVEL SECURITY;$/ ],
		[ 'tables', 'error', qr/^Row security of table public\.tegro_origin applies to its owner/, qr/^ALTER TABLE public\.tegro_origin NO FORCE ROW LEVEL SECURITY;$/ ],
		[ 'tables', 'error', qr/^Table "App s"\.heir inherits from table public\.tegro_event/, qr/^ALTER TABLE "App s"\.heir NO INHERIT public\.tegro_event;$/ ],
		map { [ 'tables', 'error', qr/^Foreign key $_ of table "App s"\.child follows/, qr/^ALTER TABLE "App s"\.child DROP CONSTRAINT $_;$/ ] } ('"k 1"', 'k2', 'k3'));
	# the doctor's query and the guard's list of what is the extension's own
	foreach my $case (
		[ 'CREATE TRIGGER t AFTER INSERT ON tegro_outbox FOR EACH STATEMENT EXECUTE FUNCTION "App s".own()', 1 ],
		[ 'CREATE RULE r AS ON INSERT TO tegro_event DO ALSO NOTIFY something', 1 ],
		[ 'CREATE POLICY more ON tegro_origin USING (true)', 0 ],
		[ 'ALTER POLICY tegro_event_own ON tegro_event USING (true)', 1 ],
		[ 'ALTER POLICY tegro_notification_own ON tegro_notification TO app', 1 ],
		[ 'ALTER TABLE tegro_origin FORCE ROW LEVEL SECURITY', 1 ],
		[ 'CREATE TABLE "App s".heir2 () INHERITS (tegro_event)', 1 ],
		[ 'CREATE TABLE "App s".c (a bigint REFERENCES tegro_outbox ON DELETE CASCADE)', 1 ],
		[ 'CREATE TABLE "App s".c (a bigint REFERENCES tegro_outbox ON UPDATE SET NULL)', 1 ],
		[ 'CREATE TABLE "App s".c (a bigint REFERENCES tegro_notification ON DELETE SET DEFAULT)', 1 ],
		[ 'CREATE TABLE "App s".c (a text REFERENCES tegro_payment_callback)', 1 ],
		[ 'CREATE TABLE "App s".c (a bytea REFERENCES tegro_key)', 0 ],
		[ 'CREATE TABLE "App s".c (a bigint REFERENCES tegro_outbox)', 0 ],
		[ 'SELECT', 0 ])
	{
		my ($break, $stops) = @$case;
		my $session = session($node);

		$session->query("BEGIN; $break");
		is($session->query(q{SELECT count(*) FROM tegro_doctor_rights() WHERE "check" = 'tables' AND status = 'error'})->{out},
			$stops, "the doctor on $break");
		is($session->query(q{SELECT tegro_enqueue('createOrder', '{"order_id": "guarded", "currency": "RUB", "amount": 1}')})->{sqlstate},
			$stops ? 'TG006' : '', '... agrees with the guard');
		$session->query('ROLLBACK');
		$session->close;
	}

	subtest 'fault 92: default privileges' => sub {
		run_sql(<<'END');
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, TRIGGER ON TABLES TO app;
ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO "Own er";
ALTER DEFAULT PRIVILEGES FOR ROLE app GRANT ALL ON TABLES TO "Own er";
ALTER DEFAULT PRIVILEGES IN SCHEMA "App s" GRANT ALL ON TABLES TO "Own er";
END
		my $said = doctor();
		my @rows = rows_of($said, 'default privileges');
		is_deeply([ grep { $_->{status} ne 'ok' } @{ $said->{rows} } ], [], 'nothing is wrong yet');
		is(scalar(@rows), 2, 'those that concern the extension are told');
		like($rows[0]{detail}, qr/gives role "Own er" EXECUTE on functions that role \w+ creates\. /, '... of all schemas');
		like($rows[1]{detail}, qr/gives role app SELECT, TRIGGER on tables that role \w+ creates in schema public\. /, '... of its schema');
		run_sql($_->{hint}) foreach grep { $_->{hint} } @rows;
		is_deeply([ map { $_->{hint} } rows_of(doctor(), 'default privileges') ], [undef], 'the commands of the hints undo them');
		run_sql('ALTER DEFAULT PRIVILEGES IN SCHEMA "App s" REVOKE ALL ON TABLES FROM "Own er"');
		run_sql('ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC');
		is_deeply([ map { $_->{hint} } rows_of(doctor(), 'default privileges') ], [undef], 'one that takes rights away is not told');
	};

	subtest 'a large database: 10,000 functions and 5,000 tables' => sub {
		run_sql(<<'END');
DO $$ BEGIN FOR i IN 1..10000 LOOP EXECUTE format('CREATE FUNCTION "App s".f%s(int, text) RETURNS int LANGUAGE sql AS ''SELECT 1''', i); END LOOP; END $$;
DO $$ BEGIN FOR i IN 1..5000 LOOP EXECUTE format('CREATE TABLE "App s".t%s (a int)', i); IF i % 500 = 0 THEN COMMIT; END IF; END LOOP; END $$;
DO $$ BEGIN FOR i IN 1..500 LOOP EXECUTE format('CREATE TRIGGER ask AFTER INSERT ON "App s".t%s FOR EACH ROW EXECUTE FUNCTION tegro_create_order_trigger(''{}'')', i); END LOOP; END $$;
END
		my $session = session($node);
		my $result = $session->query(q{SELECT count(*) FROM tegro_doctor_rights() WHERE status = 'ok'});
		$session->close;
		is($result->{out}, '9', 'all is well');
		ok(own_ms($result) < 1000, 'the checks take less than a second: ' . own_ms($result) . ' ms');
		run_sql(<<'END');
DO $$ BEGIN FOR i IN 1..5000 LOOP EXECUTE format('DROP TABLE "App s".t%s', i); IF i % 500 = 0 THEN COMMIT; END IF; END LOOP; END $$;
DO $$ BEGIN FOR i IN 1..10000 LOOP EXECUTE format('DROP FUNCTION "App s".f%s(int, text)', i); IF i % 500 = 0 THEN COMMIT; END IF; END LOOP; END $$;
DROP SCHEMA "App s" CASCADE;
DROP SCHEMA tools;
DROP ROLE boss, root, auditor, auditors;
DROP OWNED BY app;
DROP OWNED BY "Own er";
DROP ROLE app, "Own er";
END
	};
}


#
# Who looks
#

{
	my $said = doctor(undef, '', user => 'clerk');
	my %status = map { $_->{check} => $_ } @{ $said->{rows} };
	foreach my $check ('configuration', 'keys in files', 'origin', 'worker slots', 'backlog', 'failing', 'review', 'callbacks', 'notifications', 'payment callback', 'old snapshots')
	{
		is($status{$check}{status}, 'skipped', "an ordinary role: \"$check\" is skipped");
		like($status{$check}{detail}, qr/may not look|needs the rights/, '... and says why');
	}
	is($status{rights}{status}, 'skipped', 'the checks of rights are a function of their own');
	like($status{rights}{detail}, qr/permission denied for function tegro_doctor_rights/, '... which is named');
	is($status{provider}{status}, 'ok', 'what it may call is called');
	unlike($status{$_}{detail}, qr/\Q$dir\E|credentials_/, 'it is told of no file') foreach keys %status;

	chmod(0644, $credentials);
	$said = doctor(undef, '', user => 'clerk');
	my ($row) = rows_of($said, 'credentials');
	is($row->{status}, 'error', 'it is told that the credentials file is refused');
	unlike($row->{detail}, qr/\Q$credentials\E/, 'but not where that is');
	chmod(0600, $credentials);

	run_sql('REVOKE EXECUTE ON FUNCTION tegro_balance() FROM clerk');
	$sandbox->begin;
	($row) = rows_of(doctor(undef, '', user => 'clerk'), 'provider');
	is($row->{status}, 'skipped', 'what it may not call is not called');
	like($row->{hint}, qr/^GRANT EXECUTE ON FUNCTION tegro_balance\(\)/, '... and it is told what is missing');
	is(scalar($sandbox->journal), 0, '... and nothing was sent');

	run_sql('GRANT pg_monitor TO clerk; GRANT SELECT ON tegro_outbox, tegro_origin TO clerk');
	$said = doctor(undef, '', user => 'clerk');
	is((rows_of($said, 'worker slots'))[0]{status}, 'ok', 'with pg_monitor it sees more');
	like((rows_of($said, 'review'))[0]{detail}, qr/of the requests that role "clerk" may see/, 'and is told that it sees its own requests only');

	run_sql('REVOKE EXECUTE ON FUNCTION tegro_doctor() FROM clerk');
	is(doctor(undef, '', user => 'clerk')->{sqlstate}, '42501', 'without EXECUTE it is told nothing');
}

# a table that is locked
{
	my $session = session($node);
	$session->query('BEGIN; LOCK TABLE tegro_outbox');
	my $said = doctor(undef, "SET tegro.timeout = '2s';\n");
	finds($said, 'review', 'skipped', qr/locked|too long/, qr/./, 'a table that someone has locked');
	ok($said->{ms} < 5000, "... is not waited for: $said->{ms} ms");
	is((rows_of($said, 'provider'))[0]{status}, 'ok', 'and what comes after it is done');
	$session->query('ROLLBACK');
	$session->close;
}


#
# Without a worker slot
#

{
	my $other = cluster('full', $sandbox, certificates => $certificates, conf => <<'END');
fsync = on
max_worker_processes = 1
END
	my $said = doctor(undef, '', node => $other);
	finds($said, 'worker slots', 'error', qr/^All 1 background workers/, qr/^ALTER SYSTEM SET max_worker_processes = 9; and restart/, 'no free worker slot');

	$other->safe_psql('postgres', <<'END');
SELECT tegro_enqueue('createOrder', '{"order_id": "o1", "currency": "RUB", "amount": 1}');
UPDATE tegro_outbox SET next_at = now() - interval '5 min';
END
	finds(doctor(undef, '', node => $other), 'worker', 'error', qr/^No delivery worker runs/, qr/"worker slots"/, '... while requests are due', also => [ 'backlog', 'worker slots' ]);
	like(slurp_file($other->logfile), qr/WARNING:  could not start the tegro delivery worker/, '... which is in the log');
	$other->stop;
}

foreach my $key (CANARY, API_KEY, SECRET_KEY)
{
	ok(index($told, $key) < 0, 'it never says a key') or diag(substr($told, index($told, $key) - 200, 300));
}

done_testing();
