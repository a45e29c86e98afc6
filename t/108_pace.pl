# 108_pace.pl: how fast requests are sent, and which go first.
#
# tegro.rate_limit holds for each shop, and a shop that has no token holds up no
# other.  A payout and a single order go before a bulk of orders that was there
# first, and however many come, the bulk goes on.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use Test::More;
use Time::HiRes qw(sleep time);

use TegroTest;
use TegroOutbox;

# What must not take longer than a second, on a machine that is busy.
use constant A_SECOND_MS => 1500;

# milliseconds that the sandbox takes for an answer
use constant LATENCY_MS => 20;

my $other_shop = 'A' x 32;
my $sandbox = sandbox(arguments => [ '--latency', LATENCY_MS, '--shop', "$other_shop:@{[API_KEY]}:@{[SECRET_KEY]}" ]);
my $credentials = spew(TegroTest::scratch() . '/credentials', "*:*:@{[API_KEY]}:@{[SECRET_KEY]}\n", 0600);
my $node = outbox_cluster('pace', $sandbox, conf => "autovacuum = off\ntegro.credentials_file = '$credentials'\n");
my $session = session($node);

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
	my ($name, $count, $shop) = @_;

	return query_ok("SELECT count(tegro_enqueue('createOrder', jsonb_build_object('shop_id', '@{[$shop // SHOP_ID]}',
		'order_id', '$name-' || n, 'amount', 1, 'currency', 'RUB'))) FROM generate_series(1, $count) n");
}

sub count_rows
{
	my ($where) = @_;

	return query_ok("SELECT count(*) FROM tegro_outbox WHERE $where");
}

# Those of what waits that were never sent are not sent any more.
sub forget_what_waits
{
	query_ok(q{UPDATE tegro_outbox SET state = 'cancelled', next_at = NULL, finished_at = now()
		WHERE state = 'ready' AND claimed_until IS NULL});
	wait_until(sub { sleep 0.05; return count_rows('next_at IS NOT NULL') == 0; }, 30)
	  or die 'something still waits';
	return;
}

# How long it took until a request was sent for the first time, in ms.
sub sent_after_ms
{
	my ($reference) = @_;
	my $ms;

	wait_until(
		sub {
			sleep 0.02;
			$ms = query_ok("SELECT ceil(1000 * extract(epoch FROM min(started_at) - min(enqueued_at)))
				FROM tegro_outbox JOIN tegro_event ON outbox_id = id WHERE reference = '$reference'");
			return $ms ne '';
		},
		10);
	return $ms eq '' ? undef : $ms;
}

sub soon_ok
{
	my ($reference, $name) = @_;
	my $ms = sent_after_ms($reference);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(defined $ms && $ms <= A_SECOND_MS, $name) or diag(defined $ms ? "it took $ms ms" : 'it was not sent in 10 s');
	return;
}

# The times of a shop's orders in the journal whose names begin alike.
sub times_of
{
	my ($shop, $name) = @_;

	return map { $_->{time} }
	  grep { ($_->{params}{shop_id} // '') eq $shop && ($_->{params}{order_id} // '') =~ /^$name-/ }
	  $sandbox->journal(method => 'createOrder');
}

# The most of them in a second.
sub most_in_a_second
{
	my @times = @_;
	my $most = 0;

	for (my ($i, $j) = (0, 0); $j < @times; $j++)
	{
		$i++ while $times[$j] - $times[$i] > 1;
		$most = $j - $i + 1 if $j - $i + 1 > $most;
	}
	return $most;
}

enqueue($session, 'createOrder', 'first');
ok(defined sent_after_ms('first'), 'a worker runs');
my $pid = worker_pid($node);

# resident memory of its own, in kB
sub worker_memory
{
	my ($kb) = TegroTest::slurp("/proc/$pid/status") =~ /^RssAnon:\s+(\d+)/m;

	return $kb;
}

subtest 'the limit is each shop\'s own' => sub {
	set_server($node, { 'tegro.rate_limit' => 20 }, $session);
	# its outcome is unknown, so that it is looked up while its shop rests
	$sandbox->fault('createOrder', 'execute_then_close');
	enqueue($session, 'createOrder', 'in doubt');
	ok(wait_until(sub { sleep 0.02; count_rows(q{reference = 'in doubt' AND state IN ('unknown', 'accepted')}) == 1; }),
		'an order is in doubt');
	enqueue_many('bulk', 3000);
	sleep 0.5;
	enqueue($session, 'createOrder', 'beside', shop_id => $other_shop);
	soon_ok('beside', 'an order of another shop goes out at once');
	enqueue($session, 'createWithdrawal', 'payout');
	soon_ok('payout', 'so does a payout of the same shop');
	enqueue($session, 'createOrder', 'fresh');
	soon_ok('fresh', 'and one more order of it');
	my $done = wait_until(sub { sleep 0.05; count_rows(q{reference = 'in doubt' AND state = 'accepted'}) == 1; }, 10);
	ok($done, 'a lookup waits for no token');
	enqueue_many('many', 200, $other_shop);
	sleep 4;
	foreach ([ SHOP_ID, 'bulk' ], [ $other_shop, 'many' ])
	{
		my ($shop, $name) = @$_;
		my @times = times_of($shop, $name);

		# those that were saved up come on top, and they may pile up on their way
		cmp_ok(most_in_a_second(@times), '<=', 26, "$name: not more than the limit in any second");
		cmp_ok(scalar(@times), '>=', 4 * 15 - 10, "$name: and not much less");
	}
	is(worker_pid($node), $pid, 'the worker is the same');
	set_server($node, { 'tegro.rate_limit' => undef }, $session);
	ok(wait_until(sub { sleep 0.1; return count_rows('next_at IS NOT NULL') == 0; }, 60),
		'without a limit all go out');
	is(count_rows(q{state = 'accepted' AND attempts = 1 AND reference ~ '^(bulk|many)'}), 3200, 'each once');
};

subtest '40,000 shops' => sub {
	# a shop that nobody knows is answered, too
	$sandbox->fault(
		'createOrder', 'answer',
		times => -1,
		body => '{"type": "success", "desc": "", "data": {"id": 1, "url": "https://tegro.money/pay/1"}}');
	set_server($node, { 'tegro.rate_limit' => 1 }, $session);
	my $before = worker_memory();
	query_ok(q{SELECT count(tegro_enqueue('createOrder', jsonb_build_object('shop_id', 'shop ' || n,
		'order_id', 'invented-' || i, 'amount', 1, 'currency', 'RUB')))
		FROM generate_series(1, 40000) n, generate_series(1, 2) i});
	enqueue($session, 'createOrder', 'among them', shop_id => $other_shop);
	soon_ok('among them', 'an order of another shop goes out');
	enqueue($session, 'createWithdrawal', 'payout among them');
	soon_ok('payout among them', 'so does a payout');
	my $sent = sub { return query_ok(q{SELECT count(*) FROM tegro_event JOIN tegro_outbox ON id = outbox_id
		WHERE reference ~ '^invented'}) };
	my $at = $sent->();
	sleep 4;
	cmp_ok($sent->() - $at, '>', 400, 'and those go on');
	is(query_ok(q{SELECT count(*) FROM (SELECT started_at - lag(started_at) OVER (PARTITION BY shop_id
		ORDER BY started_at) AS pause FROM tegro_event JOIN tegro_outbox ON id = outbox_id
		WHERE reference ~ '^invented') AS pauses WHERE pause < interval '0.9 s'}), 0, 'none of them twice within a second');
	cmp_ok(query_ok(q{SELECT count(*) FROM tegro_outbox WHERE reference = 'invented-2' AND attempts = 1}), '>', 0,
		'but twice');
	cmp_ok(worker_memory() - $before, '<', 8 * 1024, 'the worker keeps little of it');
	is(worker_pid($node), $pid, 'the worker is the same');
	forget_what_waits();
	$sandbox->clear_faults;
	set_server($node, { 'tegro.rate_limit' => undef }, $session);
};

subtest 'a bulk of 20,000' => sub {
	enqueue_many('large', 20000);
	enqueue($session, 'createWithdrawal', 'payout beside');
	enqueue($session, 'createOrder', 'order beside');
	soon_ok('payout beside', 'a payout at once after it goes out within a second');
	soon_ok('order beside', 'so does an order');
	sleep 2;
	query_ok('BEGIN');
	enqueue($session, 'createOrder', 'order late');
	sleep 1.5;
	query_ok('COMMIT');
	enqueue($session, 'createWithdrawal', 'payout later', shop_id => $other_shop);
	enqueue($session, 'createOrder', 'order later', shop_id => $other_shop);
	soon_ok('payout later', 'and later: a payout');
	soon_ok('order later', 'an order');
	my $ms = sent_after_ms('order late');
	ok(defined $ms && $ms <= A_SECOND_MS + 1500, 'one whose transaction took a while')
	  or diag($ms // 'it was not sent');

	# more of them than can be sent at all
	my $sent = sub { return count_rows("reference ~ '^$_[0]' AND attempts > 0") };
	my $large = $sent->('large');
	my $end = time + 3;
	my $streams = 0;
	while (time < $end)
	{
		enqueue_many('stream-' . ++$streams, 250);
		enqueue($session, 'createWithdrawal', "stream-$streams");
		sleep 0.1;
	}
	my $both = $sent->('large') - $large;
	my $fresh = $sent->('stream');
	cmp_ok($fresh, '>', 0.05 * ($both + $fresh), 'of a stream of fresh ones some go out');
	cmp_ok($both, '>', 0.5 * ($both + $fresh), 'and the bulk goes on');
	forget_what_waits();
	is(worker_pid($node), $pid, 'the worker is the same');
};

subtest 'a bulk of payouts' => sub {
	query_ok(q{SELECT count(tegro_enqueue('createWithdrawal', jsonb_build_object('payment_id', 'salary-' || n,
		'amount', 1, 'currency', 'RUB', 'account', '4111'))) FROM generate_series(1, 5000) n});
	enqueue($session, 'createOrder', 'order beside payouts');
	soon_ok('order beside payouts', 'an order goes out within a second');
	forget_what_waits();
};

$session->close;
$node->stop;
done_testing();
