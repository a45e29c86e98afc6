# 105_worker.pl: the background worker that delivers: when it is there, and what
# it costs.
#
# A worker is started by the commit that enqueued; after a start of the server the
# launcher starts it.  Another server has more databases than may have workers
# (fewer of them suffice with injection points).  How long it takes from the statement to the
# provider, and how many requests a second are delivered, is printed.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use List::Util qw(min);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use TegroTest;
use TegroOutbox;

my $sandbox = sandbox();
my $node = outbox_cluster('worker', $sandbox, conf => <<'END');
max_worker_processes = 12
max_prepared_transactions = 2
wal_level = replica
max_wal_senders = 2
END
my %sessions;

# A session in a database, kept.
sub in
{
	my ($database) = @_;

	return $sessions{$database} //= session($node, database => $database);
}

sub leave
{
	my ($database) = @_;

	(delete $sessions{$database})->close if $sessions{$database};
	return;
}

sub create_database
{
	my ($database) = @_;

	$node->safe_psql('template1', "CREATE DATABASE $database");
	in($database)->query('CREATE EXTENSION tegro');
	return in($database);
}

sub becomes_true
{
	my ($database, $query, $patience) = @_;

	return wait_until(
		sub {
			return 1 if in($database)->query($query)->{out} eq 't';
			sleep 0.02;
			return 0;
		},
		$patience // 120);
}

sub is_done
{
	my ($reference, $name, $database) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(becomes_true($database // 'postgres', "SELECT state = 'accepted' FROM tegro_outbox WHERE reference = '$reference'"), $name)
	  or diag(in($database // 'postgres')->query("SELECT * FROM tegro_outbox WHERE reference = '$reference'")->{out});
	return;
}

# The pids of the workers of a database.
sub workers
{
	my ($database) = @_;

	return split(/\n/, $node->safe_psql('template1', "SELECT pid FROM pg_stat_activity
		WHERE backend_type = 'tegro delivery worker' AND datname = '$database'"));
}

sub no_worker
{
	my ($database, $patience) = @_;

	return wait_until(sub { sleep 0.05; return !workers($database); }, $patience // 120);
}

sub set
{
	my ($name, $value) = @_;

	$node->append_conf('postgresql.conf', "$name = '$value'");
	$node->reload;
	# a session that has the library loaded
	becomes_true('postgres', "SELECT current_setting('$name') = '$value'") or die "$name was not set";
	return;
}

# How often a process has waited so far.
sub waits
{
	my ($pid) = @_;

	return TegroTest::slurp("/proc/$pid/status") =~ /^voluntary_ctxt_switches:\s+(\d+)/m ? $1 : die 'no such line';
}

# How often a process waits in so many seconds, at the best of three times: what
# the server itself wakes it for, and what it was still about, comes once.
sub waits_in
{
	my ($pid, $seconds, $enough) = @_;
	my $least;

	foreach (1 .. 3)
	{
		my $before = waits($pid);

		sleep $seconds;
		return 0 unless -d "/proc/$pid";
		$least = min($least // (), waits($pid) - $before);
		last if $least <= $enough;
	}
	return $least;
}

# What a process has in memory, in kB, without the server's shared memory, of
# which it touches more the longer it runs.
sub rss_kb
{
	my ($pid) = @_;

	return TegroTest::slurp("/proc/$pid/status") =~ /^RssAnon:\s+(\d+) kB/m ? $1 : die 'no RssAnon';
}

# Many orders, whose names begin alike, in one transaction.
sub enqueue_many
{
	my ($database, $name, $count) = @_;

	return in($database)->query("SELECT count(tegro_enqueue('createOrder', jsonb_build_object('order_id',
		'$name-' || n, 'amount', 1, 'currency', 'RUB'))) FROM generate_series(1, $count) n");
}

sub all_done
{
	my ($database, $name, $count, $patience) = @_;

	return becomes_true($database, "SELECT count(*) = $count FROM tegro_outbox WHERE reference LIKE '$name-%' AND state = 'accepted'", $patience);
}

sub arrival
{
	my ($reference) = @_;
	my ($line) = grep { ($_->{params}{order_id} // '') eq $reference } $sandbox->journal;

	return $line->{time};
}

sub median
{
	my @sorted = sort { $a <=> $b } @_;

	return $sorted[ @sorted / 2 ];
}


#
# Started by a commit
#

{
	is(join(' ', workers('postgres')), '', 'no worker runs where nothing was enqueued');
	my $session = in('postgres');
	$session->query('BEGIN');
	enqueue($session, 'createOrder', 'first');
	sleep 0.5;
	is(join(' ', workers('postgres')), '', 'nor before the commit');
	my $from = time;
	$session->query('COMMIT');
	is_done('first', 'a commit starts it');
	diag(sprintf('from the commit to the provider, with a worker that must be started: %.0f ms', 1000 * (arrival('first') - $from)));
	is(scalar(my @one = workers('postgres')), 1, 'there is one');
	my ($state) = $node->safe_psql('postgres', "SELECT state || ' ' || (query <> '') || ' ' || backend_type || ' ' || datname FROM pg_stat_activity WHERE pid = $one[0]");
	like($state, qr/^idle \w+ tegro delivery worker postgres$/, 'pg_stat_activity shows it, idle');

	my @latencies;
	foreach my $n (1 .. 50)
	{
		sleep 0.02;
		my $begun = time;
		enqueue($session, 'createOrder', "single-$n");
		is_done("single-$n", "order $n is delivered") if $n % 25 == 0;
		push @latencies, [ "single-$n", $begun ];
	}
	ok(all_done('postgres', 'single', 50), 'all are delivered');
	my @ms = map { own_ms($_->[1], arrival($_->[0])) } @latencies;
	diag(sprintf('from the statement to the provider, with a worker that waits: median %.1f ms, at most %.1f ms',
			median(@ms), (sort { $a <=> $b } @ms)[-1]));
	cmp_ok(median(@ms), '<', 100, 'within milliseconds');
	is((workers('postgres'))[0], $one[0], 'it is still the same worker');

	# it does for less than tegro.timeout, so whoever looks may come too late
	my $held = 0;
	my $seen = 0;
	while (!$seen && $held < 5)
	{
		$held++;
		$sandbox->fault('createOrder', 'execute_then_hold', ms => 900);
		enqueue($session, 'createOrder', "held-$held");
		$seen = becomes_true('postgres',
			"SELECT state = 'active' AND query = 'waiting for answers' FROM pg_stat_activity WHERE pid = $one[0]", 3);
	}
	ok($seen, 'pg_stat_activity says that it waits for answers');
	is_done("held-$held", 'and then the answer is there');
}


#
# Idle
#

{
	my ($pid) = workers('postgres');

	sleep 0.5;
	# the server itself may wake it once or twice
	cmp_ok(waits_in($pid, 10, 4), '<=', 4, 'while nothing is to do, it does not wake up');
	in('postgres')->query(q{SELECT tegro_enqueue('createOrder', '{"order_id": "tomorrow", "amount": 1, "currency": "RUB"}',
		deliver_after => now() + interval '1 day')});
	sleep 0.5;
	cmp_ok(waits_in($pid, 10, 4), '<=', 4, 'nor while what there is to do is for later');
	set('tegro.worker_idle_timeout', '1s');
	sleep 3;
	is((workers('postgres'))[0], $pid, 'it stays for that');
	in('postgres')->query(q{SELECT tegro_cancel(id) FROM tegro_outbox WHERE reference = 'tomorrow'});
	ok(no_worker('postgres'), 'with nothing to do it ends after tegro.worker_idle_timeout');
	enqueue(in('postgres'), 'createOrder', 'after idle');
	is_done('after idle', 'the next request starts another');

	# one that is always about to end
	set('tegro.worker_idle_timeout', '0');
	foreach my $n (1 .. 60)
	{
		enqueue(in('postgres'), 'createOrder', "brief-$n");
		sleep rand 0.06;
	}
	ok(all_done('postgres', 'brief', 60), 'requests that come while it is about to end are not overlooked');
	ok(no_worker('postgres'), 'and then it ends');
	set('tegro.worker_idle_timeout', '1min');
}


#
# Databases
#

{
	my @databases = map { "shop_$_" } 1 .. 3;

	create_database($_) foreach @databases;
	enqueue_many($_, "many of $_", 100) foreach @databases;
	foreach my $database (@databases)
	{
		ok(all_done($database, "many of $database", 100), "$database delivers");
		is(scalar(my @workers = workers($database)), 1, 'with a worker of its own');
	}

	# it goes with its database
	my ($pid) = workers('shop_3');
	leave('shop_3');
	my $from = time;
	my ($status, $out, $err) = $node->psql('template1', 'DROP DATABASE shop_3 WITH (FORCE)');
	is($status, 0, 'a database can be dropped under its worker, by force') or diag($err);
	cmp_ok(own_ms($from), '<', 10_000, 'at once');
	my $log = -s $node->logfile;
	sleep 6;
	unlike(substr(slurp_file($node->logfile), $log), qr/tegro delivery worker/, 'and it is not started again');
	ok(!-d "/proc/$pid", 'it is gone');

	# a setting that comes while it runs: a claim is on disk before it is sent
	in('postgres')->query($_) foreach split(/;\n/, <<'END');
CREATE TABLE commits AS SELECT NULL::text AS op, NULL::text AS synchronous_commit LIMIT 0;
CREATE FUNCTION note_commit(op text) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.commits SELECT op, pg_catalog.current_setting(''synchronous_commit''); RETURN true; END';
ALTER TABLE tegro_event ADD CONSTRAINT note_commit CHECK (note_commit(CASE WHEN ended_at IS NULL THEN 'INSERT' ELSE 'UPDATE' END)) NOT VALID
END
	enqueue(in('postgres'), 'createOrder', 'waits for the disk');
	is_done('waits for the disk', 'a worker runs');
	set('synchronous_commit', $_), enqueue(in('postgres'), 'createOrder', "under $_"), is_done("under $_", "under synchronous_commit = $_")
	  foreach qw(off local remote_write remote_apply);
	is(in('postgres')->query(q{SELECT string_agg(op || ' ' || synchronous_commit, ', ') FROM commits})->{out},
		join(', ', map { ("INSERT $_", "UPDATE $_") } qw(on on on on remote_apply)),
		'... whatever a reload brings, claims and outcomes wait for the disk');
	in('postgres')->query('ALTER TABLE tegro_event DROP CONSTRAINT note_commit; DROP FUNCTION note_commit(text); DROP TABLE commits');
	set('synchronous_commit', 'on');

	# settings of a database that would be in its way
	my @timeouts = ('statement_timeout', $node->pg_version >= 17 ? 'transaction_timeout' : ());
	$node->safe_psql('template1', "ALTER DATABASE shop_2 SET $_") foreach
	  'default_transaction_read_only = on', (map { "$_ = '1ms'" } @timeouts), q{lock_timeout = '1ms'},
	  'default_transaction_isolation = serializable', 'default_transaction_deferrable = on',
	  'search_path = evil, pg_catalog', 'row_security = off',
	  # 19 has it on for good
	  ($node->pg_version->major < 19 ? 'standard_conforming_strings = off' : ()),
	  'enable_indexscan = off', q{datestyle = 'SQL, DMY'}, 'bytea_output = escape', 'synchronous_commit = off',
	  q{idle_in_transaction_session_timeout = '1ms'}, 'role = regress_nobody', 'array_nulls = off',
	  'check_function_bodies = on', 'max_parallel_workers_per_gather = 4', 'extra_float_digits = -15', 'xmloption = document';
	$node->safe_psql('template1', 'CREATE ROLE regress_nobody');
	in('shop_2')->query($_) foreach split(/;\n/, <<'END');
CREATE SCHEMA evil;
CREATE FUNCTION evil.trap() RETURNS timestamptz LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''trapped''; END';
CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS 'SELECT evil.trap()';
CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT evil.trap()';
CREATE FUNCTION evil.trap(bigint, bigint) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''trapped''; END';
CREATE OPERATOR evil.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = evil.trap);
CREATE FUNCTION evil.trap(text, text) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''trapped''; END';
CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.trap);
CREATE TABLE evil.tegro_outbox (id bigint);
CREATE TABLE evil.pg_extension (extname text);
GRANT USAGE ON SCHEMA evil TO PUBLIC
END
	in('shop_2')->query(q{SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
		WHERE backend_type = 'tegro delivery worker' AND datname = 'shop_2'});
	# this session began before all that
	enqueue(in('shop_2'), 'createOrder', 'hostile');
	enqueue(in('shop_2'), 'createWithdrawal', 'hostile payout');
	is_done($_, "\"$_\" is delivered from a database whose settings are against it", 'shop_2') foreach 'hostile', 'hostile payout';
	local $ENV{PGOPTIONS} = join(' ', map { "-c $_=0" } @timeouts);
	my $result = query($node, 'SET default_transaction_read_only = off; SET ROLE postgres; CALL public.tegro_deliver()',
		database => 'shop_2');
	is($result->{sqlstate}, '', 'so it is by a session with such settings') or diag($result->{err});
	leave('shop_2');
}


#
# The extension comes and goes
#

{
	my $session = create_database('coming');

	enqueue($session, 'createOrder', 'first coming');
	is_done('first coming', 'an order', 'coming');
	my $from = time;
	is($session->query('DROP EXTENSION tegro')->{sqlstate}, '', 'the extension can be dropped while its worker lives');
	cmp_ok(own_ms($from), '<', 10_000, 'at once');
	$session->query('CREATE EXTENSION tegro');
	enqueue($session, 'createOrder', 'second coming');
	is_done('second coming', 'after it was created again, an order is delivered', 'coming');
	$session->query('DROP EXTENSION tegro; CREATE SCHEMA elsewhere; CREATE EXTENSION tegro SCHEMA elsewhere');
	$session->query('SET search_path = elsewhere');
	enqueue($session, 'createOrder', 'third coming');
	is_done('third coming', 'so it is when it is in another schema', 'coming');

	# with a request in flight
	$sandbox->fault('createOrder', 'execute_then_hold', ms => 700);
	enqueue($session, 'createOrder', 'lost coming');
	becomes_true('coming', q{SELECT state <> 'ready' FROM tegro_outbox WHERE reference = 'lost coming'});
	is($session->query('DROP EXTENSION tegro')->{sqlstate}, '', 'it can be dropped while a request is in flight');
	sleep 3;
	my ($pid) = workers('coming');
	cmp_ok(defined $pid ? waits_in($pid, 3, 5) : 0, '<=', 5, 'and the worker does not go round in circles');
	$session->query('CREATE EXTENSION tegro');
	enqueue($session, 'createOrder', 'fourth coming');
	is_done('fourth coming', 'created once more, it delivers', 'coming');
	is(scalar(grep { ($_->{params}{order_id} // '') eq 'lost coming' } $sandbox->journal(executed => 1)), 1,
		'what was in flight was executed once');
	leave('coming');
}


#
# Reloads and signals
#

{
	my $session = in('postgres');

	enqueue($session, 'createOrder', 'before');
	is_done('before', 'an order');
	set('tegro.delivery', 'off');
	sleep 0.3;
	enqueue_many('postgres', 'off', 10);
	sleep 1;
	is($session->query(q{SELECT count(*) FROM tegro_outbox WHERE reference LIKE 'off-%' AND state = 'ready'})->{out}, 10,
		'while delivery is off, nothing is sent');
	my $from = time;
	set('tegro.delivery', 'on');
	ok(all_done('postgres', 'off', 10), 'once it is on again, all is');
	cmp_ok(own_ms($from), '<', 10_000, 'at once');

	# off while a request is in flight
	$sandbox->fault('createWithdrawal', 'execute_then_hold', ms => 800);
	enqueue($session, 'createWithdrawal', 'interrupted');
	becomes_true('postgres', q{SELECT state <> 'ready' FROM tegro_outbox WHERE reference = 'interrupted'});
	set('tegro.delivery', 'off');
	sleep 1.5;
	set('tegro.delivery', 'on');
	is_done('interrupted', 'what was in flight when it was turned off is found afterwards');

	# a setting of the worker's
	my $other = sandbox();
	my $url = $sandbox->api_url;
	set('tegro.api_url', $other->api_url);
	enqueue($session, 'createOrder', 'moved');
	is_done('moved', 'an order after a reload that changes where the provider is');
	is(scalar($other->journal(executed => 1)), 1, 'goes there');
	set('tegro.api_url', $url);
	$other->stop;

	# a person ends it
	my ($pid) = workers('postgres');
	$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid, 5000)");
	ok(!-d "/proc/$pid", 'it can be terminated');
	enqueue($session, 'createOrder', 'terminated');
	is_done('terminated', 'the next request starts another');
	$sandbox->fault('createWithdrawal', 'execute_then_hold', ms => 900);
	enqueue($session, 'createWithdrawal', 'in flight');
	becomes_true('postgres', q{SELECT state <> 'ready' FROM tegro_outbox WHERE reference = 'in flight'});
	($pid) = workers('postgres');
	$from = time;
	$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid, 5000)");
	cmp_ok(own_ms($from), '<', 3000, 'it ends at once while a request is in flight');
	is_done('in flight', 'which is found by the one that follows');
	($pid) = workers('postgres');
	$node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
	enqueue($session, 'createOrder', 'cancelled');
	is_done('cancelled', 'a cancel is no harm');

	# prepared transactions
	$session->query('BEGIN');
	enqueue($session, 'createOrder', 'prepared');
	$session->query(q{PREPARE TRANSACTION 'later'});
	sleep 1;
	$from = time;
	query($node, q{COMMIT PREPARED 'later'});
	is_done('prepared', 'an order of a prepared transaction is delivered once that is committed');
	cmp_ok(own_ms($from), '<', 10_000, 'soon');

	# nothing else waits, when somebody ends the worker that waits for it
	$session->query('BEGIN');
	enqueue($session, 'createOrder', 'prepared too');
	$session->query(q{PREPARE TRANSACTION 'later'});
	sleep 1.5;
	($pid) = workers('postgres');
	is($session->query('SELECT count(*) FROM tegro_outbox WHERE next_at IS NOT NULL')->{out}, 0, 'nothing waits');
	$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid, 5000)");
	ok(!-d "/proc/$pid", 'the worker is terminated while there is a prepared transaction');
	sleep 1;
	query($node, q{COMMIT PREPARED 'later'});
	is_done('prepared too', 'it comes back by itself, and delivers what that enqueued');
}


#
# Workers that fail at each start
#

{
	my %session = map { ($_ => create_database("fails_$_")) } qw(delivery callback);
	my %column = (delivery => [ 'tegro_notification', 'next_at' ], callback => [ 'tegro_outbox', 'callback_message' ]);
	my $ends = sub {
		my ($kind, $mark) = @_;
		my $log = log_since($node, $mark);

		return scalar(my @ends = $log =~ /background worker "tegro $kind worker" \(PID \d+\) exited with exit code 1/g);
	};
	my $lasted = 17;

	$session{callback}->query('CREATE FUNCTION called(id bigint, state text, reference text, answer jsonb) RETURNS void
		BEGIN ATOMIC SELECT 1; END');
	# any error that comes back stands for these
	$session{$_}->query("ALTER TABLE $column{$_}[0] RENAME $column{$_}[1] TO gone") foreach keys %session;
	my $mark = log_mark($node);
	my $begun = time;
	for (my $n = 1; time - $begun < $lasted; $n++)
	{
		enqueue($session{delivery}, 'createOrder', "delivery-$n");
		$session{callback}->query(qq{SELECT tegro_enqueue('createOrder',
			'{"order_id": "callback-$n", "amount": 1, "currency": "RUB"}', 'called'::regproc)});
		sleep 0.4;
	}
	foreach my $kind (sort keys %session)
	{
		my $failed = $ends->($kind, $mark);

		cmp_ok($failed, '>=', 2, "a $kind worker that fails comes back by itself");
		# each that is registered comes every 5 s
		cmp_ok($failed, '<=', (time - $begun) / 5 + 1, 'however much is enqueued meanwhile, it is one');
		$session{$kind}->query("ALTER TABLE $column{$kind}[0] RENAME gone TO $column{$kind}[1]");
	}
	ok(becomes_true('fails_delivery', q{SELECT count(*) = 0 FROM tegro_outbox WHERE state <> 'accepted'}),
		'when it fails no longer, all is delivered, with nothing else enqueued');
	ok(becomes_true('fails_callback', q{SELECT count(*) = 0 FROM tegro_outbox WHERE callback_state <> 'done'}, 60),
		'and all is called back');
	is(scalar(my @one = workers('fails_delivery')), 1, 'by one worker');
	foreach my $kind (keys %session)
	{
		leave("fails_$kind");
		$node->safe_psql('template1', "DROP DATABASE fails_$kind WITH (FORCE)");
	}
}


#
# What it costs
#

{
	my ($pid) = workers('postgres');
	my $session = in('postgres');

	enqueue_many('postgres', 'warm', 1000);
	ok(all_done('postgres', 'warm', 1000), 'a thousand orders, to warm up');
	sleep 0.2;
	($pid) = workers('postgres');
	my ($rss, $descriptors) = (rss_kb($pid), descriptors($pid));
	my $from = time;
	enqueue_many('postgres', 'cost', 5000);
	ok(all_done('postgres', 'cost', 5000, 300), 'five thousand more');
	my @times = sort { $a <=> $b } map { $_->{time} }
	  grep { ($_->{params}{order_id} // '') =~ /^cost-/ } $sandbox->journal(executed => 1);
	is(scalar(@times), 5000, 'each executed once');
	is((workers('postgres'))[0], $pid, 'by one worker');
	my ($more, $fds) = (rss_kb($pid) - $rss, descriptors($pid));
	diag(sprintf('5000 orders: %.0f a second; RSS %d kB, %+d kB; descriptors %d, then %d',
			4999 / ($times[-1] - $times[0]), $rss, $more, $descriptors, $fds));
	cmp_ok($more, '<', 4096, 'it does not grow');
	# a connection for each slot, and some that were idle are closed
	cmp_ok($fds - $descriptors, '<=', 32 + 8, 'nor does the number of its descriptors');

	# those that fail; the first time it makes room for them
	foreach my $turn ('some', 'more')
	{
		$sandbox->fault('createOrder', 'execute_then_close', times => 300);
		$sandbox->fault('createOrder', 'answer', times => 300, status => 200, body => '{"type":"error","desc":"no"}');
		$sandbox->fault('createOrder', 'answer', times => 300, status => 200, executed => JSON::PP::true, body => '<html>' x 1000);
		$rss = rss_kb($pid);
		enqueue_many('postgres', $turn, 1000);
		ok(becomes_true('postgres', qq{SELECT count(*) = 1000 FROM tegro_outbox WHERE reference LIKE '$turn-%' AND state IN ('accepted', 'refused')}),
			"a thousand that fail in some way or other, $turn");
		$more = rss_kb($pid) - $rss;
		diag(sprintf('1000 that fail, %s: RSS %+d kB; descriptors %d', $turn, $more, descriptors($pid)));
	}
	cmp_ok($more, '<', 1024, 'it does not grow with them');
	is((workers('postgres'))[0], $pid, 'it is the same worker');

	# claims that fail, again and again: someone holds a table
	$session->query('BEGIN; LOCK TABLE tegro_event IN SHARE MODE');
	my $other = session($node);
	$other->query("SELECT tegro_enqueue('createOrder', jsonb_build_object('order_id', 'locked-' || n, 'amount', 1,
		'currency', 'RUB')) FROM generate_series(1, 20) n");
	my $mark = log_mark($node);
	my $waits = 0;
	foreach (1 .. 4)
	{
		foreach my $waits_now ('t', 'f')
		{
			$waits++ if wait_until(
				sub {
					sleep 0.01;
					return $other->query("SELECT wait_event_type = 'Lock' IS TRUE FROM pg_stat_activity
						WHERE pid = $pid")->{out} eq $waits_now;
				});
		}
	}
	is($waits, 8, 'a worker that fails to claim tries again');
	$other->query("SELECT pg_log_backend_memory_contexts($pid)");
	ok(wait_until(sub { sleep 0.05; return log_since($node, $mark) =~ /Grand total:/ }), 'its memory is told');
	my $contexts = () = log_since($node, $mark) =~ /tegro request:/g;
	cmp_ok($contexts, '<=', 20, 'what failed leaves nothing behind');
	$session->query('COMMIT');
	ok(all_done('postgres', 'locked', 20), 'and goes on when the table is free');
	is((workers('postgres'))[0], $pid, 'it is still the same worker');
	$other->close;
}


#
# What is kept
#

{
	# One that is enqueued in the very moment in which another is to be stripped:
	# the worker waits for a lock on the table of events.  That wait resets its
	# latch; yet it hears of the new request.
	my $session = create_database('saved');

	enqueue($session, 'createOrder', 'saved', payment_system => 'no such system');
	ok(becomes_true('saved', q{SELECT state = 'refused' FROM tegro_outbox WHERE reference = 'saved'}), 'an order that failed');
	sleep 1.5;
	# executed at once: a request that is held and then executed would be a second one
	$sandbox->fault('createOrder', 'execute_then_hold', ms => 60_000, times => -1);
	my $mark = log_mark($node);
	my $holder = session($node, database => 'saved');
	$holder->query('BEGIN; LOCK TABLE tegro_event IN SHARE MODE');
	set('tegro.retention', '1s');
	ok(becomes_true('saved', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'tegro delivery worker'
		AND datname = 'saved' AND wait_event_type = 'Lock'}), 'is about to be stripped');
	enqueue($session, 'createOrder', 'meanwhile');
	ok(wait_until(sub { sleep 0.05; return log_since($node, $mark) =~ /old requests of the tegro outbox could not be stripped/; }),
		'the worker does not wait for long');
	$holder->close;
	ok(becomes_true('saved', q{SELECT state <> 'ready' FROM tegro_outbox WHERE reference = 'meanwhile'}, 20),
		'it goes on');
	is($session->query(q{SELECT state FROM tegro_outbox WHERE reference = 'meanwhile'})->{out}, 'sending', 'and sends what was enqueued meanwhile');
	set('tegro.retention', '0');
	$sandbox->clear_faults;
	leave('saved');
}

{
	my $session = create_database('history');

	# those with the lowest numbers are not finished, and are more than are stripped together
	$session->query(q{SELECT count(tegro_enqueue('createOrder', jsonb_build_object('order_id', 'later-' || n,
		'amount', 1, 'currency', 'RUB'), deliver_after => now() + interval '1 day')) FROM generate_series(1, 1100) n});
	enqueue_many('history', 'old', 2500);
	ok(all_done('history', 'old', 2500), '2500 orders, behind 1100 that wait');
	# when all are older than that, for it is not looked at again at once
	sleep 1.5;
	set('tegro.retention', '1s');
	ok(becomes_true('history', q{SELECT count(*) = 2500 FROM tegro_outbox WHERE stripped_at IS NOT NULL}),
		'with tegro.retention, all that are finished are stripped');
	is($session->query(q{SELECT string_agg(DISTINCT state || ' ' || (params IS NULL AND answer IS NULL AND amount = 1 AND currency = 'RUB'
		AND length(params_hash) = 32), ', ') FROM tegro_outbox})->{out}, 'accepted true, ready false', 'and no other');
	is($session->query('SELECT count(*) FROM tegro_event')->{out}, 2500, 'their events stay');
	is($session->query('SELECT count(*) FROM tegro_key')->{out}, 1, 'one key was made for all');

	# a sweep reads no row that is stripped
	$session->query('VACUUM ANALYZE tegro_outbox');
	like($session->query(q{EXPLAIN SELECT id FROM tegro_outbox WHERE finished_at < now() AND stripped_at IS NULL AND callback_at IS NULL
		ORDER BY finished_at LIMIT 1000})->{out}, qr/tegro_outbox_finished/, 'what is left is found by an index');
	cmp_ok($session->query(q{SELECT pg_relation_size('tegro_outbox_finished') / 8192})->{out}, '<', 30, '... which is small');
	set('tegro.retention', '0');

	# rows deleted by hand, their attempts left, and the numbers given out again
	enqueue_many('history', 'gone', 3);
	ok(all_done('history', 'gone', 3), 'three orders');
	my $attempts = q{SELECT string_agg(format('%s %s %s', outbox_id, claim_no, nonce), E'\n' ORDER BY outbox_id, claim_no) FROM tegro_event WHERE event = 'send'};
	my $left = $session->query($attempts)->{out};
	is($session->query(q{SELECT setval('tegro_outbox_id_seq', min(id), false) IS NOT NULL FROM tegro_outbox WHERE reference LIKE 'gone%'})->{out},
		't', 'their numbers will be given out again');
	$session->query(q{DELETE FROM tegro_outbox WHERE reference LIKE 'gone%'});
	enqueue_many('history', 'again', 2);
	ok(all_done('history', 'again', 2), 'orders under the numbers of requests that were deleted are looked up, then delivered');
	is($session->query(q{SELECT tegro_create_withdrawal('{"payment_id": "again", "currency": "RUB", "amount": 1,
		"account": "4100"}') ->> 'type'})->{out}, 'success', 'so is a payout');
	is($session->query(q{SELECT string_agg((claim_no > 1) || ' ' || attempts, ',' ORDER BY id) FROM tegro_outbox WHERE reference LIKE 'again%'})->{out},
		'true 1,true 1,true 1', 'each was sent once, under a lease that none had');
	is($session->query($attempts)->{out} =~ s/\n\d+ (?!1 )\d+ \d+//gr, $left, 'and what is on record of the others stays');
	leave('history');
	$node->safe_psql('template1', 'DROP DATABASE history WITH (FORCE)');
}


#
# A lookup whose result cannot be written
#

{
	my $session = create_database('hindered');
	my $id = $session->query(q{SELECT tegro_enqueue('createOrder', '{"order_id": "in review", "amount": 1, "currency": "RUB"}',
		deliver_after => now() + interval '1 day')})->{out};

	$session->query("UPDATE tegro_outbox SET state = 'review', next_at = NULL, unknown_since = now() WHERE id = $id");
	$session->query('ALTER TABLE tegro_outbox ADD CHECK (absent = 0)');
	$session->query("SELECT tegro_refresh($id)");
	ok(becomes_true('hindered', "SELECT message ~ 'could not be written' FROM tegro_outbox WHERE id = $id"),
		'a lookup whose result cannot be written says so');
	is($session->query("SELECT state FROM tegro_outbox WHERE id = $id")->{out},
		'review', 'and the request stays in review');
	leave('hindered');
	$node->safe_psql('template1', 'DROP DATABASE hindered WITH (FORCE)');
}


#
# Delivery is turned off and on
#

{
	# only a callback is left to do, and nobody is there who would see it
	set('tegro.worker_idle_timeout', '0');
	my $session = create_database('switched');
	$session->query(q{CREATE FUNCTION switched(id bigint, state text, reference text, answer jsonb) RETURNS void
		LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''not yet''; END'});
	$session->query(q{SELECT tegro_enqueue('createOrder', '{"order_id": "switched", "amount": 1, "currency": "RUB"}', 'switched'::regproc)});
	ok(becomes_true('switched', q{SELECT state = 'accepted' AND callback_message ~ 'not yet' FROM tegro_outbox WHERE reference = 'switched'}),
		'a callback fails');
	set('tegro.delivery', 'off');
	ok(no_worker('switched'), 'while delivery is off, no worker is left');
	$session->query(q{CREATE OR REPLACE FUNCTION switched(id bigint, state text, reference text, answer jsonb) RETURNS void
		LANGUAGE plpgsql AS 'BEGIN END'});
	set('tegro.delivery', 'on');
	ok(becomes_true('switched', q{SELECT callback_state = 'done' FROM tegro_outbox WHERE reference = 'switched'}, 60),
		'once it is on again, it is called with nothing else enqueued');
	set('tegro.worker_idle_timeout', '1min');
	leave('switched');
	$node->safe_psql('template1', 'DROP DATABASE switched WITH (FORCE)');
}


#
# Without a place for a worker; a start; the end
#

{
	set('tegro.delivery', 'off');
	enqueue(in($_), 'createOrder', "waiting in $_") foreach qw(postgres shop_1);
	$_->close foreach values %sessions;
	%sessions = ();
	$node->append_conf('postgresql.conf', "tegro.delivery = on");
	$node->restart;
	is_done("waiting in $_", "what waits in $_ is delivered at a start", $_) foreach qw(postgres shop_1);
	my $launcher = q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'tegro launcher'
		AND state = 'idle' AND datname IS NULL AND backend_xmin IS NULL};
	ok($node->poll_query_until('postgres', $launcher), 'and then the launcher sleeps, in no database');
	my ($pid) = processes($node, 'tegro launcher');
	my $waited = waits($pid);
	sleep 5;
	cmp_ok(waits($pid) - $waited, '<=', 2, 'it does not wake up');
	create_database('fleeting');
	leave('fleeting');
	is(($node->psql('template1', 'DROP DATABASE fleeting'))[0], 0, 'a database can be dropped beside it');

	# A command that needs a database for itself.  Before 19 it fails while workers
	# are connected; from then on it ends them, and they must come back by themselves.
	if ($node->pg_version->major >= 19)
	{
		my $alone = create_database('alone');

		enqueue($alone, 'createOrder', 'alone first');
		is_done('alone first', 'an order', 'alone');
		$alone->query('CREATE FUNCTION called(id bigint, state text, reference text, answer jsonb) RETURNS void
			BEGIN ATOMIC SELECT pg_catalog.pg_sleep(3); END');
		$alone->query(q{SELECT tegro_enqueue('createOrder', '{"order_id": "alone called", "amount": 1, "currency": "RUB"}',
			'called'::regproc)});
		ok(becomes_true('alone', q{SELECT count(*) = 1 FROM pg_stat_activity
			WHERE backend_type = 'tegro callback worker' AND wait_event = 'PgSleep'}), 'a function is being called back');
		$sandbox->fault('createOrder', 'execute_then_hold', ms => 20_000);
		enqueue($alone, 'createOrder', 'alone in flight');
		ok(becomes_true('alone', q{SELECT state <> 'ready' FROM tegro_outbox WHERE reference = 'alone in flight'}), 'an order is in flight');
		leave('alone');
		is(($node->psql('template1', 'CREATE DATABASE of_one TEMPLATE alone'))[0], 0,
			'a database can be a template under its workers');
		is(($node->psql('template1', 'ALTER DATABASE alone RENAME TO not_alone'))[0], 0, 'and be renamed');
		is_done('alone in flight', 'a worker comes back for what was in flight', 'not_alone');
		ok(becomes_true('not_alone', q{SELECT callback_state = 'done' FROM tegro_outbox WHERE reference = 'alone called'}),
			'so does one for the callback that it ended');
		is(scalar(grep { ($_->{params}{order_id} // '') eq 'alone in flight' } $sandbox->journal(executed => 1)), 1,
			'the order was executed once');
		leave('not_alone');
		is(($node->psql('template1', "DROP DATABASE $_"))[0], 0, "$_ can be dropped without force") foreach qw(of_one not_alone);
		$sandbox->clear_faults;
	}
	query($node, "SELECT pg_terminate_backend($pid, 5000)");
	ok($node->poll_query_until('postgres', $launcher), 'it comes back when it was terminated');

	# nobody was asked for a worker, and then the server crashes
	leave('postgres');
	query($node, q{SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE backend_type = 'tegro delivery worker'});
	ok(no_worker($_), "there is no worker in $_") foreach qw(postgres shop_1);
	set('synchronous_standby_names', 'nobody');
	my $session = session($node);
	$session->query('BEGIN');
	enqueue($session, 'createOrder', 'crashed');
	$session->send('COMMIT');
	ok(becomes_true('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'}), 'a commit waits for a standby');
	leave('postgres');
	is(join(' ', workers('postgres')), '', 'so no worker was started');
	crash_worker($node, $session->pid);
	$session->close;
	$node->append_conf('postgresql.conf', "synchronous_standby_names = ''");
	$node->reload;
	is_done('crashed', 'what a crash made visible is delivered with nothing else enqueued');

	# a prepared transaction is all that there is at a start
	in('postgres')->query('BEGIN');
	enqueue(in('postgres'), 'createOrder', 'prepared at the start');
	in('postgres')->query(q{PREPARE TRANSACTION 'later'});
	leave('postgres');
	$node->restart;
	sleep 3;
	query($node, q{COMMIT PREPARED 'later'});
	is_done('prepared at the start', 'what was prepared before a start is delivered after its commit');

	# a callback is all that waits
	in('postgres')->query('CREATE FUNCTION called(id bigint, state text, reference text, answer jsonb) RETURNS void
		BEGIN ATOMIC SELECT 1; END');
	in('postgres')->query(q{UPDATE tegro_outbox SET callback = 'public.called(bigint,text,text,jsonb)', callback_state = 'waiting',
		callback_at = clock_timestamp() + interval '2 s' WHERE reference = 'waiting in postgres'});
	leave('postgres');
	$node->restart;
	ok(becomes_true('postgres', q{SELECT callback_state = 'done' FROM tegro_outbox WHERE reference = 'waiting in postgres'}),
		'a callback that waits at a start is called');
	is(join(' ', workers('shop_2')), '', 'there is no worker where nothing waits');

	# many in flight, and the server is to end
	$sandbox->fault('createOrder', 'execute_then_hold', ms => 10000, times => 20);
	enqueue_many('postgres', 'end', 20);
	becomes_true('postgres', q{SELECT count(*) = 20 FROM tegro_outbox WHERE reference LIKE 'end-%' AND state <> 'ready'});
	leave($_) foreach keys %sessions;
	my $from = time;
	$node->stop('fast');
	cmp_ok(own_ms($from), '<', 6000, 'the server stops at once while requests are in flight');
	$sandbox->clear_faults;
	$node->append_conf('postgresql.conf', 'max_worker_processes = 1');
	$node->start;
	ok(!workers('postgres'), 'where all places are taken, there is no worker');
	my $result = query($node, q{SELECT tegro_enqueue('createOrder', '{"order_id": "no place", "amount": 1, "currency": "RUB"}')});
	like($result->{err}, qr/WARNING:.*could not start the tegro delivery worker/, 'whoever enqueues is told');
	is($result->{sqlstate}, '', 'but the request is in');
	$result = query($node, q{SELECT tegro_create_withdrawal('{"payment_id": "no place", "amount": 1, "currency": "RUB", "account": "1"}')});
	is($result->{sqlstate}, 'TG002', 'a synchronous payout is not sent');
	query($node, q{SELECT tegro_enqueue('createOrder', '{"order_id": "called", "amount": 1, "currency": "RUB"}', 'called'::regproc)});
	query($node, 'CALL tegro_deliver()');
	is_done('no place', 'CALL tegro_deliver() delivers');
	is(in('postgres')->query(q{SELECT callback_state FROM tegro_outbox WHERE reference = 'called'})->{out}, 'done',
		'and calls back');
	ok(all_done('postgres', 'end', 20), 'also what was in flight at the end');

	# one place beside the launcher's and that of PostgreSQL's own, which another
	# database has; so nothing must wait anywhere, not even to be looked up
	leave($_) foreach keys %sessions;
	foreach my $database (split(/\n/, $node->safe_psql('template1', q{SELECT datname FROM pg_database
		WHERE datallowconn AND NOT datistemplate})))
	{
		# where the extension is
		$node->psql($database, 'UPDATE tegro_outbox SET next_at = NULL, callback_at = NULL');
	}
	$node->append_conf('postgresql.conf', 'max_worker_processes = 3');
	$node->restart;
	enqueue(in('shop_1'), 'createOrder', 'has the place');
	is_done('has the place', 'a worker has the only place', 'shop_1');
	$result = query($node, q{SELECT tegro_enqueue('createOrder', '{"order_id": "place later", "amount": 1, "currency": "RUB"}')});
	like($result->{err}, qr/WARNING:.*could not start the tegro delivery worker/, 'there is none in another database');
	sleep 6;
	is(in('postgres')->query(q{SELECT state FROM tegro_outbox WHERE reference = 'place later'})->{out}, 'ready', 'its request waits');
	query($node, q{SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE backend_type = 'tegro delivery worker'});
	is_done('place later', 'when the place is free, the launcher has it delivered');
	my %executions = %{ executions($sandbox) };
	# an order that is held beyond the lookups is sent again
	delete @executions{map { "createOrder $_" } 'saved', 'starts a worker'};
	is(join(' ', grep { $executions{$_} > 1 } keys %executions), '', 'nothing was executed twice, all along');
}

$_->close foreach values %sessions;
%sessions = ();
$node->stop;


#
# More databases than may have workers
#

{
	my $max = 12; # with injection points

	$node = outbox_cluster('many', $sandbox, conf => <<'END');
max_worker_processes = 20
tegro.worker_idle_timeout = 1s
END
	# copies, in which a request of their source is set aside
	my $source = create_database('origin');
	# in which nothing is due, so that its worker ends
	$source->query($_) foreach 'BEGIN', q{SELECT tegro_enqueue('createOrder', '{"order_id": "copied", "amount": 1, "currency": "RUB"}',
		deliver_after => now() + interval '1 hour')}, 'UPDATE tegro_outbox SET next_at = NULL', 'COMMIT';
	leave('origin');
	ok(no_worker('origin'), 'nobody is in the source');
	foreach my $n (1 .. $max + 2)
	{
		my $result;

		$node->safe_psql('template1', "CREATE DATABASE copy_$n TEMPLATE origin");
		$node->safe_psql("copy_$n", 'UPDATE tegro_outbox SET next_at = now()');
		$result = query($node, qq{SELECT tegro_enqueue('createOrder', '{"order_id": "copy $n", "amount": 1, "currency": "RUB"}')},
			database => "copy_$n");
		is($result->{err}, '', "a request is enqueued in copy $n");
		ok(becomes_true("copy_$n", q{SELECT count(*) = 2 FROM tegro_outbox WHERE (aside IS NOT DISTINCT FROM 'origin') = (reference = 'copied')
			AND (state = 'accepted') = (reference <> 'copied')}), 'it is delivered, and that of the source set aside');
		ok(no_worker("copy_$n"), 'its worker ends');
	}
	enqueue(in('postgres'), 'createOrder', 'beside copies');
	is_done('beside copies', 'another database delivers beside them');
	$node->safe_psql('copy_1', 'UPDATE tegro_outbox SET deliver_after = NULL');
	is(query($node, q{SELECT tegro_take_over('the other is gone')}, database => 'copy_1')->{sqlstate}, '',
		'one of them is to deliver');
	ok(becomes_true('copy_1', q{SELECT message ~ 'looked up again' OR state = 'accepted' FROM tegro_outbox WHERE reference = 'copied'}),
		'and does, at once');
	leave('copy_1');

	# as many as may have workers have them
	leave('postgres');
	ok(no_worker('postgres'), 'the worker beside them ends');
	$node->append_conf('postgresql.conf', "tegro.worker_idle_timeout = '1min'");
	$node->reload;
	foreach my $n (1 .. $max)
	{
		my $session = session($node, database => "copy_$n");

		$session->query($_) foreach 'DELETE FROM tegro_outbox', q{SELECT tegro_take_over('the other is gone')},
		  q{SELECT tegro_enqueue('createOrder', '{"order_id": "stays", "amount": 1, "currency": "RUB"}',
			deliver_after => now() + interval '1 day')};
		$session->close;
	}
	ok(wait_until(sub { sleep 0.1; return $max == grep { workers("copy_$_") } 1 .. $max; }), "$max databases have workers");
	my $result = query($node, q{SELECT tegro_enqueue('createOrder', '{"order_id": "too many", "amount": 1, "currency": "RUB"}')});
	like($result->{err}, qr/WARNING:.*could not start the tegro delivery worker.*\n.*$max databases have workers/,
		'whoever enqueues in one more is told');
	is($result->{sqlstate}, '', 'but the request is in');
	query($node, 'DELETE FROM tegro_outbox', database => 'copy_1');
	my ($pid) = workers('copy_1');
	$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid, 5000)");
	enqueue(in('postgres'), 'createOrder', 'no longer too many');
	is_done($_, qq{when one has none any more, "$_" is delivered}) foreach 'too many', 'no longer too many';
	leave('postgres');
	$node->stop;
}

done_testing();
