# 402_monitoring.pl: the counters, and what else tells how it goes.
#
# The counters must be the journal's: of sessions that ask at the same time, of
# workers, after a crash, and where all shared memory is taken.
# The queries that docs/monitoring.md has for exporters are run as it says, by
# the role that it makes, and must have the columns that they announce.  The
# lines of the log are those of its table.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use TegroTest;

my $dir = PostgreSQL::Test::Utils::tempdir();
my $sandbox = sandbox();
my $node = cluster('monitoring', $sandbox, conf => <<'END');
max_worker_processes = 12
END
my $session = session($node);

# The sum of a column of tegro_stat.
sub counted
{
	my ($column, $where) = @_;

	return $session->query("SELECT coalesce(sum($column), 0)::int8 FROM tegro_stat" . ($where ? " WHERE $where" : ''))->{out};
}

sub run_sql { return $node->safe_psql('postgres', $_[0]); }


#
# Counters
#

{
	my @sessions = map { session($node) } 1 .. 6;

	$sandbox->begin;
	$session->query('SELECT tegro_stat_reset()');
	$_->send(q{SELECT count(tegro_balance()) FROM generate_series(1, 300);
SELECT count(*) FROM tegro_batch('order', array_fill('{"payment_id": "none"}'::jsonb, ARRAY[100]))}) foreach @sessions;
	is($_->wait->{sqlstate}, '', 'a session has asked') foreach @sessions;
	my @journal = $sandbox->journal;
	is(scalar(@journal), 6 * 400, 'the provider was asked');
	is(counted('requests'), 6 * 400, 'none of the requests of many sessions is missed, and none counted twice');
	is(counted('answered', "method = 'balance'"), 6 * 300, '... by method and outcome');
	is(counted('refused', "method = 'order'"), 6 * 100, '... here, too');
	my $bytes = 0;
	$bytes += length($_->{body}) foreach @journal;
	is(counted('bytes_sent'), $bytes, 'bytes are those of the bodies');
	is(counted('latency_requests[array_length(latency_requests, 1)]'), 6 * 400, 'all are in the histogram');
	is($session->query(<<'END')->{out}, 't', '... which rises');
SELECT bool_and(a <= b) FROM tegro_stat, unnest(latency_requests[:14], latency_requests[2:]) AS x (a, b)
END
	is($session->query(<<'END')->{out}, 't', 'the phases are parts of the whole');
SELECT bool_and(name_lookup_ms + connect_ms + tls_ms + wait_ms <= total_ms * 1.001 + 1) FROM tegro_stat
END
	$_->close foreach @sessions;
}

# the worker's
{
	$session->query('SELECT tegro_stat_reset()');
	run_sql(q{SELECT tegro_enqueue('createOrder', jsonb_build_object('order_id', 'o' || i, 'currency', 'RUB', 'amount', 1)) FROM generate_series(1, 50) AS i});
	ok(wait_until(sub { $session->query("SELECT count(*) FROM tegro_outbox WHERE state = 'accepted'")->{out} eq '50' }), 'delivered');
	is(counted('answered', "method = 'createOrder'"), 50, "the worker's are counted");
	is(counted('requests'), 50, '... and no others');
}

# a cancel
{
	$session->query('SELECT tegro_stat_reset()');
	$sandbox->fault('balance', 'hold', ms => 20_000, times => 3);
	is($session->query("SET statement_timeout = '2s'; SELECT tegro_batch('balance', '{\"{}\", \"{}\", \"{}\"}')")->{sqlstate}, '57014', 'a cancel');
	$session->query('RESET statement_timeout');
	is(counted('cancelled'), 3, 'what it ended is counted');
	is(counted('requests'), 3, '... as a request');
	is(counted('total_ms'), 0, '... without a time');
	$sandbox->clear_faults;
}

subtest 'requests that were not sent are counted' => sub {
	my %expected = (
		'http://127.0.0.1:1/api' => 'not_sent',
		'https://169.254.169.254/api' => 'misconfigured');

	$session->query('SELECT tegro_stat_reset()');
	foreach my $address (sort keys %expected)
	{
		set_server($node, { 'tegro.api_url' => $address });
		query($node, 'SET tegro.read_retries = 0; SELECT tegro_modules()');
		is(counted($expected{$address}, "method = 'modules'"), 1, "$address: $expected{$address}");
	}
	is(counted('requests'), 2, 'each is one request');
	is(counted('bytes_sent + bytes_received'), 0, 'they have no bytes');
	is($session->query(<<'END')->{out}, 't', 'their time is that of the phase in which they failed');
SELECT connect_ms > 0 AND connect_ms <= total_ms AND tls_ms = 0 AND wait_ms = 0 FROM tegro_stat WHERE method = 'modules'
END
	set_server($node, { 'tegro.api_url' => undef }, $session);
	is($session->query("SELECT tegro_balance() ->> 'type'")->{out}, 'success', 'the sandbox is asked again');
};

# a crash
{
	my $victim = session($node);

	kill('KILL', $victim->pid);
	ok(wait_until(sub { slurp_file($node->logfile) =~ /all server processes terminated; reinitializing/ }), 'a crash');
	ok($node->poll_query_until('postgres', 'SELECT true'), 'the server is back');
	$session = session($node);
	is(counted('requests'), 0, 'the counters begin anew');
	is($session->query("SELECT bool_and(since > clock_timestamp() - interval '1 min') FROM tegro_stat")->{out}, 't', '... and say since when');
}

# all shared memory is taken by others
{
	my $fill = "$dir/fill.so";
	open(my $file, '>', "$dir/fill.c") or die "could not write: $!";
	print {$file} <<'END';
#include "postgres.h"
#include "fmgr.h"
#include "storage/shmem.h"
PG_MODULE_MAGIC;
void _PG_init(void);
void _PG_init(void) { for (Size size = 1024 * 1024; size > 64; size /= 2) while (ShmemAllocNoError(size)) ; }
END
	close($file);
	my $include = qx{@{[ $ENV{PG_CONFIG} // 'pg_config' ]} --includedir-server};
	chomp $include;
	system('cc', '-shared', '-fPIC', "-I$include", '-o', $fill, "$dir/fill.c") == 0 or BAIL_OUT('could not compile a library');

	$node->restart;
	my $full = session($node);
	# what a call needs is there since the server's start
	is($full->query("LOAD '$fill'")->{sqlstate}, '', 'all shared memory is taken');
	is($full->query("SELECT count(*) FROM tegro_preview('balance')")->{out}, '1', 'nonces are there');
	is($full->query("SELECT tegro_balance() ->> 'type'")->{out}, 'success', 'a call does not fail for that');
	is($full->query("SELECT requests FROM tegro_stat WHERE method = 'balance'")->{out}, '1', '... and is counted');
	$full->close;
	$session = session($node);
	is(counted('requests', "method = 'balance'"), '1', '... for the whole server');

	$full = session($node);
	$sandbox->fault('balance', 'hold', ms => 3000);
	is($full->query("SET statement_timeout = '200ms'; SELECT tegro_balance()")->{sqlstate}, '57014', "a session's first call, cancelled, is cancelled");
	$full->query('RESET statement_timeout');
	is($full->query("SELECT cancelled FROM tegro_stat WHERE method = 'balance'")->{out}, '1', 'and counted');
	$sandbox->clear_faults;
	$full->close;
	$node->restart;
	$session = session($node);
}


#
# Progress
#

{
	# without a worker, which would take its share: an INSERT of one's own starts
	# none, and the one that looks at the server's start has gone
	$node->restart;
	$session = session($node);
	ok(wait_until(sub {
			$session->query(q{SELECT string_agg(backend_type || ' ' || state, ',') FROM pg_stat_activity WHERE backend_type LIKE 'tegro%'})->{out}
			  eq 'tegro launcher idle';
		}), 'no worker runs, only the launcher');
	my $origin = $session->query(<<'END')->{out};
BEGIN;
SELECT tegro_enqueue('createOrder', '{"order_id": "rolled back", "currency": "RUB", "amount": 1}') \g /dev/null
SELECT origin FROM tegro_outbox WHERE reference = 'rolled back';
ROLLBACK;
END
	run_sql(<<"END");
INSERT INTO tegro_outbox (shop_id, method, params, reference, enqueued_by, origin)
SELECT '@{[SHOP_ID]}', 'createOrder', jsonb_build_object('order_id', 'p' || i, 'currency', 'RUB', 'amount', 1), 'p' || i, current_user::regrole, '$origin'
  FROM generate_series(1, 45) AS i
END
	$sandbox->fault('createOrder', 'hold', ms => 500, times => 45);
	my $said = session($node)->query("SET tegro.max_concurrency = 3; CALL tegro_deliver()");
	like($said->{err}, qr/NOTICE: .*sent \d+ requests, \d+ are left, some \d+ s at this rate/, 'CALL tegro_deliver() says how far it is');
	my @notices = $said->{err} =~ /are left/g;
	like($said->{err}, qr/NOTICE: .*sent 45 requests$/m, '... and how far it came');
	ok(@notices <= $said->{ms} / 5000, '... not too often: ' . @notices . " times in $said->{ms} ms");
	$sandbox->clear_faults;
}


#
# The log
#

{
	$node->append_conf('postgresql.conf', "tegro.review_after = '1s'");
	reload_conf($node);
	sleep 0.2;
	my $from = -s $node->logfile;
	$sandbox->fault('createWithdrawal', 'close_after_read');
	run_sql(q{SELECT tegro_enqueue('createWithdrawal', '{"payment_id": "lost", "currency": "RUB", "amount": 1, "account": "1"}')});
	ok(wait_until(sub { $session->query("SELECT state FROM tegro_outbox WHERE reference = 'lost'")->{out} eq 'review' }), 'a payout is in review');
	my $id = $session->query("SELECT id FROM tegro_outbox WHERE reference = 'lost'")->{out};
	ok(wait_until(sub { substr(slurp_file($node->logfile), $from) =~ /LOG:  request $id of the tegro outbox is in review: \S/ }), 'the log says so');
	my @lines = slurp_file($node->logfile, $from) =~ /in review/g;
	is(scalar(@lines), 1, '... once');
}


#
# What docs/monitoring.md says
#

{
	my $docs = slurp_file("$FindBin::RealBin/../docs/monitoring.md");
	my ($setup) = $docs =~ /```sql\n(CREATE ROLE monitor.*?)```/s;
	ok($setup, 'docs/monitoring.md makes a role');
	# here the extension is in the schema of all test programs
	run_sql($setup =~ s/ON SCHEMA tegro\b/ON SCHEMA public/r);

	my $monitor = session($node, user => 'monitor');
	foreach my $query ($docs =~ /```sql\n((?:SELECT|SET).*?)```/gs)
	{
		my $result = ($query =~ /tegro_outbox_summary|SET tegro/ ? $session : $monitor)->query($query =~ s/\\gx\n/;/r);
		is($result->{sqlstate}, '', 'a query of docs/monitoring.md') or diag("$query\n$result->{err}");
	}

	foreach my $yaml ($docs =~ /```yaml\n(.*?)```/gs)
	{
		# one "query: |" after the other, each with what stands around it
		foreach my $part (split(/^(?=\S)/m, $yaml))
		{
			my ($indent, $query) = $part =~ /^( +)query: \|\n((?:\g1  .*\n)+)/m or next;
			my %columns = map { $_ => 1 } $part =~ /^ +- (\w+): \{/mg;
			my ($keys) = $part =~ /key_labels: \[(.*?)\]/;
			my ($values) = $part =~ /values: \[(.*?)\]/;

			$columns{$_} = 1 foreach map { split(/, /, $_ // '') } $keys, $values;
			if ($part =~ /- (\w+): \{usage: "HISTOGRAM"/)
			{
				$columns{"$1_$_"} = 1 foreach qw(bucket sum count);
			}
			my $result = $monitor->query("CREATE TEMPORARY VIEW q AS $query; SELECT string_agg(attname, ',' ORDER BY attname) FROM pg_attribute WHERE attrelid = 'q'::regclass; SELECT count(*) FROM q; DROP VIEW q;");
			is($result->{sqlstate}, '', 'a query for Prometheus runs') or diag("$query\n$result->{err}");
			my ($names, $rows) = split(/\n/, $result->{out});
			is($names, join(',', sort keys %columns), '... and has the columns that are announced');
			ok($rows > 0, '... and rows');
		}
	}
	is($monitor->query("SELECT $_")->{sqlstate}, '42501', "the role does not see what requests say: $_")
	  foreach 'params FROM tegro_outbox', 'reference FROM tegro_outbox', 'amount FROM tegro_notification', '* FROM tegro_event';

	# the doctor sees with it what others have, and what is set aside
	my $doctor = sub {
		return $monitor->query(qq{SELECT string_agg("check", ', ' ORDER BY "check") FROM tegro_doctor() WHERE $_[0]})->{out};
	};
	is($doctor->(q{status = 'skipped'}), 'configuration, keys in files', 'what the role can\'t see are the configuration files');
	run_sql(<<'END');
INSERT INTO tegro_outbox (shop_id, method, params, reference, state, next_at, enqueued_by, origin, callback, callback_state)
SELECT 'shop', 'createOrder', '{}', 'r', 'review', NULL, current_user::regrole, '', 'f()', 'failed';
INSERT INTO tegro_notification (shop_id, order_id, status, test, state, amount, currency, fields, role, origin)
SELECT 'shop', 'n', '1', false, 'review', 1, 'RUB', '{}', current_user::regrole, '';
INSERT INTO tegro_payment_callback (shop_id, callback, role) VALUES ('shop', 'public.gone()', current_user::regrole);
UPDATE tegro_outbox SET aside = 'origin' WHERE reference = 'r';
END
	is($doctor->(q{status IN ('warning', 'error') AND "check" <> 'durability'}),
		'callbacks, notifications, origin, payment callback, review', '... and the doctor tells it of all that others have');
	run_sql(<<'END');
DELETE FROM tegro_outbox;
DELETE FROM tegro_event;
DELETE FROM tegro_notification;
DELETE FROM tegro_payment_callback;
END
	is($monitor->query('SELECT tegro_stat_reset()')->{sqlstate}, '42501', '... and resets nothing');
}


#
# What the report advises, the operator of docs/reference.md may run
#

{
	my $docs = slurp_file("$FindBin::RealBin/../docs/reference.md");
	my ($grants) = $docs =~ /An \*\*operator\*\*.*?```sql\n(.*?)```/s;
	my $other = 'A77C266B1D9953AA863D3FBEF4B1D64F';

	ok($grants, 'docs/reference.md makes an operator');
	# USAGE on the schema, which everyone has here, is granted further above
	run_sql("CREATE ROLE operator LOGIN; CREATE ROLE payer; CREATE ROLE shop_owner; CREATE ROLE shopkeeper; $grants");
	run_sql(<<"END");
INSERT INTO tegro_outbox (shop_id, method, params, reference, state, next_at, enqueued_by, enqueued_by_name, origin, message)
VALUES ('@{[SHOP_ID]}', 'createWithdrawal', '{}', 'a payout', 'review', NULL, 'payer'::regrole, 'payer', '', ''),
	   ('@{[SHOP_ID]}', 'createOrder', '{}', 'an order', 'review', NULL, 'payer'::regrole, 'payer', '', ''),
	   ('$other', 'createOrder', '{}', 'of another shop', 'review', NULL, 'payer'::regrole, 'payer', '', '');
INSERT INTO tegro_notification (shop_id, order_id, status, test, state, amount, currency, fields, role, role_name, origin)
VALUES ('@{[SHOP_ID]}', 'n', '1', false, 'review', 1, 'RUB', '{}', 'shopkeeper'::regrole, 'shopkeeper', '');
END
	my $operator = session($node, user => 'operator');
	my $page = $operator->query('SELECT tegro_report()')->{out};
	my %seen;
	foreach my $advice ($page =~ m{<pre>(.*?)</pre>}gs)
	{
		foreach my $command (split(/\n/, $advice =~ s/<i .*?<\/i>//gr =~ s/&#39;/'/gr =~ s/&#x3e;/>/gr =~ s/&#x2026;/a test/gr))
		{
			my ($what) = $command =~ /(\w+)\(|^(RESET )/ ? $1 // $2 : next;
			next if $command =~ /'(?:accepted|refused)'/;

			my $result = $operator->query($command);
			$seen{$what}++;
			# the sandbox has none of them; and it knows the one shop only
			like("$result->{sqlstate} $result->{err}", $what =~ /^tegro_(?:order|withdrawal)$/
				  ? qr/^TG001.*not found|^TG006 .*shop "$other"/s : qr/^ /, "the operator may run: $command");
		}
		is($operator->query('SHOW tegro.shop_id')->{out}, SHOP_ID, '... and has his shop again');
	}
	is_deeply(\%seen, { tegro_withdrawal => 1, tegro_order => 2, set_config => 1, 'RESET ' => 1, tegro_resolve => 3, tegro_retry_notification => 1,
			tegro_explain => 3 },
		'all of that was advised');
	run_sql('DELETE FROM tegro_outbox; DELETE FROM tegro_notification');
}

done_testing();
