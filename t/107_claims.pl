# 107_claims.pl: one row that is in the way, and the others go out.
#
# A row whose claim raises, a row that is very large, a lock, a foreign key: the
# healthy order beside it is delivered within a second, by the same worker.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use Test::More;
use Time::HiRes qw(sleep time);

use TegroTest;
use TegroOutbox;

my $sandbox = sandbox();
my $node = outbox_cluster('claims', $sandbox, conf => "autovacuum = off\n");
my $session = session($node);

# What must not take longer than a second, on a machine that is busy.
use constant A_SECOND_MS => 1500;

sub query_ok
{
	my ($sql) = @_;
	my $result = $session->query($sql);

	die "$sql: $result->{err}" if $result->{sqlstate} ne '';
	return $result->{out};
}

# Orders whose names begin alike, in one transaction.
sub enqueue_many
{
	my ($name, $count) = @_;

	return query_ok("SELECT count(tegro_enqueue('createOrder', jsonb_build_object('order_id',
		'$name-' || n, 'amount', 1, 'currency', 'RUB'))) FROM generate_series(1, $count) n");
}

sub count_rows
{
	my ($where, $table) = @_;

	return ask($node, 'SELECT count(*) FROM ' . ($table // 'tegro_outbox') . " WHERE $where")->{out};
}

# The longest that these orders took, in ms; undef if one is not done.
sub took_ms
{
	my ($pattern, $count) = @_;

	wait_until(sub { sleep 0.05; return count_rows("reference LIKE '$pattern' AND state = 'accepted'") == $count; }, 30)
	  or return;
	return ask($node, "SELECT ceil(1000 * max(extract(epoch FROM finished_at - enqueued_at)))
		FROM tegro_outbox WHERE reference LIKE '$pattern'")->{out};
}

# A healthy order goes out, within a second.
my $healthy = 0;

sub healthy_ok
{
	my ($name) = @_;
	my $reference = 'healthy ' . ++$healthy;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	enqueue($session, 'createOrder', $reference);
	my $ms = took_ms($reference, 1);
	ok(defined $ms && $ms <= A_SECOND_MS, $name) or diag(defined $ms ? "it took $ms ms" : 'it did not go out');
	return;
}

enqueue($session, 'createOrder', 'first');
ok(defined took_ms('first', 1), 'a worker runs');
my $pid = worker_pid($node);

sub same_worker
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(worker_pid($node), $pid, 'and the worker is the same');
	return;
}

subtest 'fault 50: rows whose claim raises' => sub {
	my $mark = log_mark($node);

	query_ok(q{ALTER TABLE tegro_outbox ADD CONSTRAINT audit CHECK (reference NOT LIKE 'poison%' OR claim_no = 0)});
	# more than fit into one claim, and each in front of the healthy ones
	query_ok('BEGIN');
	enqueue_many('poison', 40);
	enqueue_many('beside', 5);
	query_ok('COMMIT');
	my $ms = took_ms('beside-%', 5);
	ok(defined $ms && $ms <= A_SECOND_MS, 'orders behind 40 of them go out') or diag($ms // 'they did not');
	healthy_ok('so does one that comes later');
	sleep 3;
	healthy_ok('and one after these were tried again');
	is(count_rows(q{reference LIKE 'poison%' AND state = 'ready' AND claim_no = 0 AND attempts = 0}), 40, 'they wait');
	my @lines = log_since($node, $mark) =~ /request \d+ of the tegro outbox could not be claimed: .*"audit"/g;
	is(scalar @lines, 40, 'the log has each of them once');
	same_worker();
	query_ok('ALTER TABLE tegro_outbox DROP CONSTRAINT audit');
	reload_conf($node);
	ok(defined took_ms('poison-%', 40), 'once the cause is gone, and after a reload, they go out');
	is((executions($sandbox))->{"createOrder poison-$_"}, 1, "poison-$_ once") foreach 1, 40;
};

subtest 'fault 50: a notification whose claim raises' => sub {
	my $mark = log_mark($node);
	my $insert = q{INSERT INTO tegro_notification (shop_id, order_id, status, test, state, amount, currency, fields, role,
		next_at, origin) SELECT shop_id, '%s', '1', false, 'waiting', 1, 'RUB', '{}', current_user::regrole, now(), origin
		FROM tegro_outbox WHERE reference = 'first'};

	query_ok(q{ALTER TABLE tegro_notification ADD CONSTRAINT audit CHECK (order_id <> 'poison' OR claim_no = 0)});
	query_ok(sprintf $insert, 'poison');
	query_ok(sprintf $insert, 'well');
	healthy_ok('an order goes out');
	ok(wait_until(sub { sleep 0.05; return ask($node,
			q{SELECT looked_up_at IS NOT NULL FROM tegro_notification WHERE order_id = 'well'})->{out} eq 't'; }, 10),
		'another notification is looked up');
	like(log_since($node, $mark), qr/notification \d+ of tegro could not be claimed: .*"audit"/, 'the log has it');
	same_worker();
	query_ok($_) foreach 'DELETE FROM tegro_notification', 'ALTER TABLE tegro_notification DROP CONSTRAINT audit';
};

subtest 'fault 50: answers in flight while no row can be claimed' => sub {
	$sandbox->fault('createOrder', 'execute_then_hold', ms => 700);
	enqueue($session, 'createOrder', 'in flight');
	wait_for_row($node, 'in flight', 'sending');
	query_ok(q{ALTER TABLE tegro_outbox ADD CONSTRAINT audit CHECK (reference <> 'never' OR claim_no = 0)});
	enqueue($session, 'createOrder', 'never');
	my $row = wait_for_row($node, 'in flight', 'accepted', 'unknown');
	is($row->{state}, 'accepted', 'the answer of one in flight is taken');
	is($row->{tries}[0]{outcome}, 'answered', 'and written to its attempt');
	same_worker();
	my $result = $session->query('CALL tegro_deliver()');
	is($result->{sqlstate}, '', 'in the foreground, that is no error');
	like($result->{err}, qr/WARNING:.*request \d+ of the tegro outbox could not be claimed/, 'but a warning');
	query_ok($_) foreach 'ALTER TABLE tegro_outbox DROP CONSTRAINT audit';
	reload_conf($node);
	ok(defined took_ms('never', 1), 'it goes out later');
};

sub row_state
{
	my ($reference) = @_;

	return ask($node, "SELECT state FROM tegro_outbox WHERE reference = '$reference'")->{out};
}

subtest 'fault 83: rows of an older dump, whose requests were sent since' => sub {
	set_server($node, { 'tegro.delivery' => 'off' });
	enqueue($session, 'createWithdrawal', "restored $_") foreach 1, 2;
	query_ok(q{CREATE TABLE dumped AS SELECT * FROM tegro_outbox WHERE reference LIKE 'restored%'});
	set_server($node, { 'tegro.delivery' => undef });
	wait_for_row($node, "restored $_", 'accepted') foreach 1, 2;
	set_server($node, { 'tegro.delivery' => 'off' });
	# the second is of a later claim
	query_ok(q{UPDATE tegro_event SET claim_no = claim_no + 3 WHERE outbox_id = (SELECT max(id) FROM dumped)});
	# not a TRUNCATE: after that, rows of an older dump are set aside
	query_ok($_) foreach 'DELETE FROM tegro_outbox', 'INSERT INTO tegro_outbox OVERRIDING SYSTEM VALUE SELECT * FROM dumped',
	  'DROP TABLE dumped';
	set_server($node, { 'tegro.delivery' => undef });
	healthy_ok('a healthy order goes out beside them');
	is(wait_for_row($node, "restored $_", 'accepted', 'review')->{state}, 'accepted', "payout $_ is found") foreach 1, 2;
	is((executions($sandbox))->{"createWithdrawal restored $_"}, 1, "payout $_ was made once") foreach 1, 2;
};

subtest 'fault 51: large requests' => sub {
	my $order = q{jsonb_build_object('order_id', '%s', 'amount', 1, 'currency', 'RUB', 'fields', jsonb_build_object('x', repeat('%s', %d)))};
	my $empty = query_ok(sprintf qq{SELECT octet_length(body) FROM tegro_preview('createOrder', $order)}, 'size 0', 'x', 0);
	my $room = 64 * 1024 - $empty;
	my $result;

	# two bytes of UTF-8 are six of the body
	foreach my $case ([ 'x', $room + 1 ], [ 'x', 15_000_000 ], [ 'я', int($room / 6) + 1 ])
	{
		$result = $session->query(sprintf qq{SELECT tegro_enqueue('createOrder', $order)}, 'size 1', @$case);
		is($result->{sqlstate}, '54000', "$case->[1] times $case->[0] is refused at enqueue");
		like($result->{err}, qr/tegro\.max_request_size allows 64 kB/, 'which names the limit');
		$result = $session->query(sprintf qq{SELECT tegro_create_order($order)}, 'size 1', @$case);
		is($result->{sqlstate}, '54000', 'and in a direct call');
	}
	is(count_rows(q{reference = 'size 1'}), 0, 'nothing is recorded');
	query_ok(sprintf qq{SELECT tegro_enqueue('createOrder', $order)}, 'size 2', 'x', $room);
	ok(defined took_ms('size 2', 1), 'one of 64 kB is sent');

	# let in under another limit
	set_server($node, { 'tegro.max_request_size' => '16MB' }, $session);
	my $pid = worker_pid($node);
	TegroTest::spew("/proc/$pid/clear_refs", '5');
	my $before = TegroTest::vm_hwm_kb($pid);
	query_ok('BEGIN');
	query_ok(sprintf qq{SELECT tegro_enqueue('createOrder', $order)}, "huge $_", 'x', 900_000) foreach 1 .. 32;
	enqueue($session, 'createOrder', 'beside huge ones');
	query_ok('COMMIT');
	set_server($node, { 'tegro.max_request_size' => undef }, $session);
	ok(defined took_ms('huge %', 32), 'those that are in are sent, whatever the limit is now');
	ok(defined took_ms('beside huge ones', 1), 'and one beside them');
	my $more = TegroTest::vm_hwm_kb($pid) - $before;
	diag("32 requests of 0.9 MB: $more kB more");
	cmp_ok($more, '<', 80_000, 'a few at a time');
};

subtest 'faults 48, 49: retention, a foreign key, and a lock' => sub {
	my $mark = log_mark($node);
	my $pid = worker_pid($node);
	my $holder = session($node);
	my $kept = q{reference IN ('size 2', 'huge 3')};

	query_ok($_) foreach 'CREATE TABLE my_orders (request bigint PRIMARY KEY REFERENCES tegro_outbox)',
	  "INSERT INTO my_orders SELECT id FROM tegro_outbox WHERE $kept";
	is(count_rows(q{reference LIKE 'huge %' AND state = 'accepted'}), 32, 'many are finished');
	sleep 2.5;
	$sandbox->fault('createOrder', 'execute_then_hold', ms => 600);
	enqueue($session, 'createOrder', 'in flight under a lock');
	wait_for_row($node, 'in flight under a lock', 'sending');
	$holder->query('BEGIN; LOCK TABLE tegro_event IN SHARE MODE');
	set_server($node, { 'tegro.retention' => '2s' }, $session);
	ok(wait_until(sub { sleep 0.05; return log_since($node, $mark) =~ /old requests of the tegro outbox could not be stripped: .*lock timeout/; }, 10),
		'retention meets a lock');
	sleep 1.2;
	$holder->query('COMMIT');
	$holder->close;
	healthy_ok('when the lock is gone, an order goes out');
	my $row = wait_for_row($node, 'in flight under a lock', 'accepted', 'unknown');
	is($row->{state}, 'accepted', 'the answer that came meanwhile is taken');
	is($row->{attempts}, 1, 'of the only attempt');
	healthy_ok('orders go out beside that') foreach 1 .. 2;
	ok(wait_until(sub { sleep 0.05; return count_rows(q{reference LIKE 'huge %' AND params IS NULL AND stripped_at > finished_at}) == 32; }, 30),
		'all that are finished are stripped, whatever refers to them');
	is(count_rows('request IN (SELECT id FROM tegro_outbox)', 'my_orders'), 2, 'and the rows stay');
	is(worker_pid($node), $pid, 'the worker is the same');
	my $lines = () = log_since($node, $mark) =~ /could not be stripped/g;
	is($lines, 1, 'and the log is not filled');
	query_ok('DROP TABLE my_orders');
	set_server($node, { 'tegro.retention' => undef }, $session);
};

subtest 'fault 72: a clock that jumps ahead, with retention' => sub {
	my $pay = q{SELECT tegro_create_withdrawal('{"payment_id": "jump", "amount": %s, "currency": "RUB", "account": "4100", "payment_system": 10}')};
	my $id;

	is($session->query(sprintf $pay, 7)->{sqlstate}, '', 'a payout');
	$id = query_ok(q{SELECT id FROM tegro_outbox WHERE reference = 'jump'});
	# as it is for a clock that is a hundred years ahead
	query_ok(q{UPDATE tegro_outbox SET enqueued_at = enqueued_at - interval '100 years',
		finished_at = finished_at - interval '100 years' WHERE reference = 'jump'});
	set_server($node, { 'tegro.retention' => '1d' }, $session);
	query_ok("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE backend_type = 'tegro delivery worker'");
	healthy_ok('an order, and a worker that sweeps at once');
	ok(wait_until(sub { sleep 0.05; return count_rows(q{reference = 'jump' AND params IS NOT NULL}) == 0; }, 20), 'the payout is old');
	is(query_ok(q{SELECT tegro_enqueue('createWithdrawal', '{"payment_id": "jump", "amount": 7.0, "currency": "RUB", "account": "4100",
		"payment_system": 10}')}), $id, 'the same payout is that request');
	$session->query(sprintf $pay, 7);
	is($session->query(sprintf $pay, 8)->{sqlstate}, 'TG007', 'another one under its number is refused');
	sleep 1;
	is((executions($sandbox))->{'createWithdrawal jump'}, 1, 'it was paid once');
	set_server($node, { 'tegro.retention' => undef }, $session);
};

subtest 'fault 53: deliver_after of what another database enqueued' => sub {
	set_server($node, { 'tegro.delivery' => 'off' });
	foreach my $after ('1 hour', '0')
	{
		query_ok(qq{SELECT tegro_enqueue('createOrder', '{"order_id": "after $after", "amount": 1, "currency": "RUB"}',
			deliver_after => now() + interval '$after')});
	}
	query_ok(q{UPDATE tegro_outbox SET origin = '1/1/1/1' WHERE reference LIKE 'after %'});
	query_ok(q{SELECT tegro_take_over('taken over')});
	is(query_ok(q{SELECT string_agg(state || ' ' || (next_at > now() + interval '50 min') || ' '
		|| (unknown_since > now() + interval '50 min'), ', ' ORDER BY id) FROM tegro_outbox WHERE reference LIKE 'after %'}),
		'unknown true true, unknown false false', 'one that was to wait still does');
	set_server($node, { 'tegro.delivery' => undef });
	ok(defined took_ms('after 0', 1), 'the other is looked up and sent');
	is(count_rows(q{reference = 'after 1 hour' AND state = 'unknown'}), 1, 'and that one is not');
};

# the last: it cannot be mended
subtest 'fault 50: parameters that cannot be read' => sub {
	query_ok(q{ALTER TABLE tegro_outbox ALTER params SET STORAGE EXTERNAL});
	query_ok(q{SELECT tegro_enqueue('createOrder', jsonb_build_object('order_id', 'corrupt', 'amount', 1, 'currency', 'RUB',
		'fields', jsonb_build_object('note', repeat('x', 9000))), deliver_after => now() + interval '1 hour')});
	my $file = query_ok(q{SELECT pg_relation_filepath(reltoastrelid) FROM pg_class WHERE oid = 'tegro_outbox'::regclass});
	query_ok('CHECKPOINT');
	$session->close;
	$node->stop;
	open(my $handle, '+<:raw', $node->data_dir . "/$file") or die "$file: $!";
	my $size = -s $handle;
	seek($handle, 0, 0);
	print $handle 'x' x $size;
	close($handle);
	$node->start;
	$session = session($node);
	like($session->query(q{SELECT params::text FROM tegro_outbox WHERE reference = 'corrupt'})->{sqlstate}, qr/^XX/, 'they are corrupt');
	query_ok(q{UPDATE tegro_outbox SET next_at = now() WHERE reference = 'corrupt'});
	healthy_ok('an order goes out') foreach 1 .. 2;
	is(row_state('corrupt'), 'ready', 'it waits');
};

$session->close;
$node->stop;
done_testing();
