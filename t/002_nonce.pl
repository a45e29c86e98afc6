# 002_nonce.pl: no two requests of a server carry the same nonce, and the
# clock that people set does not matter.
#
# Many sessions, of several databases, ask for nonces at once: through
# tegro_preview(), which takes one and sends nothing, and through real calls to
# a sandbox that refuses a nonce that it has seen.  All that were given out are
# collected and compared.
#
# Then the same happens while the server's clock is set back and forth by hours,
# with a library put under the postmaster (LD_PRELOAD) that adds to the clock
# what a file says; and time limits are measured across such steps.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use TegroTest;

# pgbench of so many sessions, each so many times or for so long
use constant SESSIONS => 64;
use constant CALLS => 200;

my $dir = PostgreSQL::Test::Utils::tempdir();

# pgbench counts a session that met an error as failed, and says so at its end.
my $take_nonce = spew("$dir/take_nonce.sql", <<'SQL');
INSERT INTO taken (session, nonce) SELECT pg_backend_pid(), (body::jsonb->>'nonce')::bigint FROM tegro_preview('balance');
SQL
my $ask_balance = spew("$dir/ask_balance.sql", "SELECT tegro_balance();\n");

my $serial = 0;

sub start_pgbench
{
	my ($node, $database, $script, @options) = @_;
	my %run = (log => "$dir/pgbench_" . ++$serial);

	# to a file, so that it never waits for us to read
	$run{harness} = IPC::Run::start(
		[
			'pgbench', '-n', '-M', 'prepared', '-j', 2, '-f', $script, @options,
			$node->connstr($database)
		],
		'<',
		\undef,
		'>',
		$run{log},
		'2>&1',
		IPC::Run::timeout(300));
	return \%run;
}

# Waits for its end; returns what it complained of.
sub finish_pgbench
{
	my ($run) = @_;
	my $ok = $run->{harness}->finish;
	my $text = slurp_file($run->{log});

	return $ok && $text !~ /aborted/ ? '' : substr($text, 0, 2000);
}

sub prepare
{
	my ($node, @databases) = @_;

	foreach my $database (@databases)
	{
		$node->safe_psql('postgres', "CREATE DATABASE $database") if $database ne 'postgres';
		$node->safe_psql($database, 'CREATE EXTENSION tegro') if $database ne 'postgres';
		# a session's numbers in n rise as it took its nonces
		$node->safe_psql($database,
			'CREATE UNLOGGED TABLE taken (n bigserial, session int, nonce bigint)');
	}
	return;
}

# All nonces that were taken: how many, how many different, and how often one
# was not above the session's one before.
sub taken
{
	my ($node, @databases) = @_;
	my ($count, $falls, %seen) = (0, 0);

	foreach my $database (@databases)
	{
		foreach my $nonce (split(/\n/, $node->safe_psql($database, 'SELECT nonce FROM taken')))
		{
			$count++;
			$seen{$nonce} = 1;
		}
		$falls += $node->safe_psql($database, <<'SQL');
SELECT count(*) FROM (
	SELECT nonce <= lag(nonce) OVER (PARTITION BY session ORDER BY n) AS falls FROM taken) _
WHERE falls
SQL
		$node->safe_psql($database, 'TRUNCATE taken');
	}
	return ($count, scalar(keys %seen), $falls, sort { $a <=> $b } keys %seen);
}


#
# Many sessions
#

my $sandbox = sandbox(arguments => [ '--nonce', 'unique' ]);

my $node = cluster('nonce', $sandbox, conf => "max_connections = 120\nsynchronous_commit = off\n");
prepare($node, qw(postgres other));

# half of them in each of two databases
my $from = time;
my @runs = map { start_pgbench($node, $_, $take_nonce, '-c', SESSIONS / 2, '-t', CALLS) }
  qw(postgres other);
is(join('', map { finish_pgbench($_) } @runs), '', 'many sessions take nonces');
my ($count, $different, $falls, @nonces) = taken($node, qw(postgres other));
my $until = time;

diag(sprintf("%d nonces of %d sessions in %.1f s", $count, SESSIONS, $until - $from));
is($count, SESSIONS * CALLS, 'each call takes one');
is($different, $count, 'no two are the same');
is($falls, 0, 'they rise in each session');
cmp_ok($nonces[0], '>=', int($from * 1e6), "they begin at the clock's microseconds");
cmp_ok($nonces[-1], '<=', int($until * 1e6), "and don't run ahead of it");

$sandbox->begin;
is(finish_pgbench(start_pgbench($node, 'postgres', $ask_balance, '-c', 16, '-t', 100)),
	'', '16 sessions make 100 calls each');
my @requests = $sandbox->journal;
my %sent = map { ($_->{nonce} => 1) } @requests;
is(scalar(@requests), 1600, 'each call was one request');
is(scalar(keys %sent), 1600, 'each request had a nonce of its own');
is(scalar(grep { $_->{verdict} ne 'success' } @requests), 0, 'the provider refused none');

$sandbox->begin;
my $result = query(
	$node,
	q{SELECT count(*), count(*) FILTER (WHERE sqlstate IS NULL)
	  FROM tegro_batch('balance', array_fill('{}'::jsonb, ARRAY[500]))});
is($result->{out}, '500|500', 'the calls of a batch have nonces of their own');


#
# A nonce of the caller's
#

# A provider that wants nonces to rise would refuse all that come after.
subtest 'a nonce among the parameters is refused everywhere' => sub {
	my $rising = sandbox(arguments => [ '--nonce', 'rising' ]);
	my $admin = session($node);

	set_server($node, { 'tegro.api_url' => $rising->api_url }, $admin);
	is($admin->query($_)->{err}, '', 'the role that tries') foreach (
		'CREATE ROLE taker LOGIN; GRANT taker TO CURRENT_USER',
		q{SELECT format('GRANT EXECUTE ON FUNCTION %s TO taker', oid::regprocedure) FROM pg_proc
			WHERE proname ~ '^tegro_(call|batch|preview|create_.*|enqueue)$' AND prokind = 'f' \gexec},
		'CREATE TABLE sale (id text, nonce bigint, params jsonb); ALTER TABLE sale OWNER TO taker; GRANT CREATE ON SCHEMA public TO taker');
	my $session = session($node, user => 'taker');

	my $taken = q{SELECT tegro_create_order('{"order_id": "before", "currency": "RUB", "amount": 1}') ->> 'type'};
	is($session->query($taken)->{out}, 'success', 'an order is made');
	my $before = $rising->journal;
	foreach my $nonce ('9223372036854775807', '1', '-1', '1e300', '"9223372036854775807"', 'null', '[]', '{"a": 1}')
	{
		my $order = qq{'{"order_id": "n", "currency": "RUB", "amount": 1, "nonce": $nonce}'};
		my $payout = qq{'{"payment_id": "n", "currency": "RUB", "account": "1", "amount": 1, "nonce": $nonce}'};
		my @ways = (
			"SELECT tegro_create_order($order)", "SELECT tegro_create_withdrawal($payout)",
			(map { ("SELECT tegro_call('$_', $order)", "SELECT tegro_preview('$_', $order)") } qw(createOrder balance order orders newMethod)),
			"SELECT tegro_call('createWithdrawal', $payout)", "SELECT tegro_preview('createWithdrawal', $payout)",
			"SELECT tegro_batch('createOrder', ARRAY['{\"order_id\": \"b\", \"currency\": \"RUB\", \"amount\": 1}', $order]::jsonb[])",
			"SELECT tegro_enqueue('createOrder', $order)", "SELECT tegro_enqueue('createWithdrawal', $payout)");
		my @taken;

		foreach my $way (@ways)
		{
			my $result = $session->query($way);

			push @taken, "$way: $result->{sqlstate}"
			  if "$result->{sqlstate} $result->{message}" ne '22023 "nonce" cannot be given as a parameter'
			  || $result->{hint} !~ /^Leave it out/;
		}
		is(join("\n", @taken), '', "fault 99: $nonce is refused");
	}
	# by a trigger's template, as a value and from a column
	foreach my $template ('{"order_id": "$id", "currency": "RUB", "amount": 1, "nonce": 9223372036854775807}',
		'{"order_id": "$id", "currency": "RUB", "amount": 1, "nonce": "$nonce"}')
	{
		is($session->query("CREATE TRIGGER pay AFTER INSERT ON sale FOR EACH ROW EXECUTE FUNCTION tegro_create_order_trigger('$template')")->{err},
			'', 'a trigger whose template has one');
		is($session->query(q{INSERT INTO sale VALUES ('t', 9223372036854775807)})->{sqlstate}, '22023', 'fault 99: is refused');
		$session->query('DROP TRIGGER pay ON sale');
	}
	is($rising->journal, $before, 'fault 99: nothing of it was sent');
	is($admin->query('SELECT count(*) FROM tegro_outbox')->{out}, '0', 'nor recorded');
	is($session->query($taken =~ s/before/after/r)->{out}, 'success', 'fault 99: the next order is made');

	# PHP tells these from the nonce
	is($session->query(q{SELECT tegro_create_order('{"order_id": "case", "currency": "RUB", "amount": 1, "Nonce": 1, "NONCE": 2, "fields": {"nonce": 3}}') ->> 'type'})->{out},
		'success', 'another case, or deeper inside, is a parameter');
	my ($last) = reverse $rising->journal;
	like($last->{body}, qr/^\{"nonce":\d{16},/, 'which does not take the place of the nonce');
	is($session->query($taken =~ s/before/last/r)->{out}, 'success', 'and the next order is made');
	$_->close foreach $session, $admin;
};
$node->stop;


#
# A clock that is set
#

$node = cluster(
	'clock', $sandbox,
	conf => "synchronous_commit = off\n",
	environment => { preload_clock() });
prepare($node, 'postgres');
my $session = session($node);

# How far off the server's clock is, in seconds.
sub clock_error
{
	return $session->query('SELECT extract(epoch FROM clock_timestamp())')->{out} - time;
}

sub next_nonce
{
	my $result = $session->query(q{SELECT body::jsonb->>'nonce' FROM tegro_preview('balance')});

	return $result->{out};
}

cmp_ok(abs(clock_error()), '<', 60, "the server's clock is right at first");
my $before = next_nonce();
set_clock(-3600);
cmp_ok(abs(clock_error() + 3600), '<', 60, 'then it is set back by an hour');
my $after = next_nonce();
cmp_ok($after, '>', $before, 'fault 42: nonces rise though the clock was set back');
cmp_ok($after, '<', $before + 1e6, 'but by no more than they must');
set_clock(7200);
cmp_ok(abs(next_nonce() / 1e6 - time - 7200), '<', 60, 'fault 42: nonces follow a clock that is set forward');
set_clock(0);
cmp_ok(next_nonce() / 1e6, '>', time + 7000, 'fault 42: and keep rising when it is set right');

{
	# slowly, so that they are not done before the clock was set eight times, however
	# late this process is with it; then as fast as they can
	my $take_slowly = spew("$dir/take_slowly.sql", <<'SQL' . slurp_file($take_nonce));
SELECT count(*) AS slowly FROM clock_is_being_set \gset
\if :slowly
\sleep 50 ms
\endif
SQL
	$session->query('CREATE TABLE clock_is_being_set AS SELECT 1');
	my $run = start_pgbench($node, 'postgres', $take_slowly, '-c', 8, '-t', 600);
	foreach my $hours (-1, 3, -24, 0, 5, -1, 48, 0)
	{
		my $taken = $session->query('SELECT count(*) FROM taken')->{out};

		# each setting of the clock is met by some of them
		wait_until(sub { $session->query('SELECT count(*) FROM taken')->{out} >= $taken + 30 });
		set_clock(3600 * $hours);
	}
	$session->query('TRUNCATE clock_is_being_set');
	is(finish_pgbench($run), '', 'sessions take nonces while the clock is set to and fro');
	set_clock(0);
	my ($count, $different, $falls, @nonces) = taken($node, 'postgres');

	diag("$count nonces while the clock was set to and fro");
	is($count, 4800, 'each call takes one');
	is($different, $count, 'fault 42: no two are the same');
	is($falls, 0, 'fault 42: they rise in each session');
	cmp_ok($nonces[-1] - $nonces[0], '>', 40 * 3600 * 1e6, 'they span the steps of the clock');
}

{
	$sandbox->begin;
	set_clock(-3600);
	is(finish_pgbench(start_pgbench($node, 'postgres', $ask_balance, '-c', 8, '-t', 25)),
		'', 'real calls go on with the clock set back');
	set_clock(0);
	is(scalar($sandbox->journal(verdict => 'success')), 200, 'and the provider refuses none');
}


#
# Time limits across a step
#

# Calls, sets the clock after a while, and waits for the end.
sub call_across_step
{
	my ($hours, $settings) = @_;

	# as a call of a session that has been at work, on a connection or not
	$session->query($settings);
	$session->send('SELECT tegro_balance()');
	sleep 0.3;
	set_clock(3600 * $hours);
	my $result = $session->wait;
	set_clock(0);
	return $result;
}

foreach my $hours (-1, 1)
{
	my $step = $hours < 0 ? 'the clock is set back' : 'the clock is set forward';

	$sandbox->begin;
	$sandbox->fault('balance', 'hold', ms => 60_000);
	my $result = call_across_step($hours, q{SET tegro.read_retries = 0; SET tegro.timeout = '1s'});
	is($result->{sqlstate}, 'TG004', "a call without an answer ends though $step");
	cmp_ok($result->{ms}, '>', 950, "not before tegro.timeout when $step");
	cmp_ok(own_ms($result), '<', 15_000, "and not long after it when $step");

	$sandbox->begin;
	$sandbox->fault('balance', 'hold', ms => 800);
	$result = call_across_step($hours, q{SET tegro.timeout = '20s'});
	is($result->{sqlstate}, '', "an answer in time is taken though $step");

	$sandbox->begin;
	$sandbox->fault(
		'balance', 'answer',
		status => 503,
		headers => { 'Retry-After' => '1' },
		body => 'later');
	$result = call_across_step($hours, q{SET tegro.read_retries = 1; SET tegro.timeout = '20s'});
	is($result->{sqlstate}, '', "a repeat is made though $step");
	cmp_ok($result->{ms}, '>', 950, "not before its time when $step");
	cmp_ok(own_ms($result), '<', 15_000, "and not long after it when $step");

	my $hole = black_hole();
	set_server($node, { 'tegro.api_url' => 'https://127.0.0.1:' . $hole->port . '/api' }, $session);
	$result = call_across_step($hours, q{SET tegro.read_retries = 0; SET tegro.connect_timeout = '1s'});
	is($result->{sqlstate}, 'TG002', "an attempt to connect ends though $step");
	cmp_ok($result->{ms}, '>', 950, "not before tegro.connect_timeout when $step");
	cmp_ok(own_ms($result), '<', 15_000, "and not long after it when $step");
	$session->query('RESET ALL');
	set_server($node, { 'tegro.api_url' => undef }, $session);
}

$session->close;
$node->stop;
done_testing();
