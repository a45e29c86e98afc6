#
# Foreign tables over the provider's lists: how they are asked for, and that
# every row comes once, also while the list moves.
#
# What was asked, and in which order, is told by the sandbox's journal.
#
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use List::Util qw(max min);
use Test::More;
use TegroTest;
use Time::HiRes qw(sleep time);

use constant LIMIT_MS => 250;

# Milliseconds by which the slow sandbox answers later
use constant LATENCY_MS => 50;

my $IMPORT = 'CREATE SERVER shop FOREIGN DATA WRAPPER tegro_fdw; '
  . 'IMPORT FOREIGN SCHEMA tegro FROM SERVER shop INTO public';

my $slow = sandbox(arguments => [ '--latency', LATENCY_MS ]);
my $small = sandbox(arguments => [ '--page-size', 10 ]);
my $still = sandbox(arguments => [ '--page-size', 50 ]);
my $rising = sandbox(arguments => [ '--page-size', 10, '--nonce', 'rising' ]);
my $node = cluster('main', $small, conf => <<'END');
wal_level = replica
max_wal_senders = 4
hot_standby = on
END
is(query($node, $IMPORT)->{err}, '', 'the lists are imported');

# Makes orders, numbers and amounts from one number to another.
sub make_orders
{
	my ($session, $from, $to) = @_;

	my $made = $session->query(
		"SET tegro.max_concurrency = 200; SET tegro.timeout = '60s'; SET tegro.connect_timeout = '60s';
		 SELECT count(answer) FROM tegro_batch('createOrder',
			(SELECT array_agg(jsonb_build_object('order_id', 'order ' || i, 'currency', 'RUB', 'amount', i))
			   FROM generate_series($from, $to) i));
		 RESET tegro.max_concurrency; RESET tegro.timeout; RESET tegro.connect_timeout");
	is($made->{out}, $to - $from + 1, "orders $from to $to are made");
	return;
}

# The pages that were asked for, in the order in which the provider read them.
sub pages
{
	my ($sandbox) = @_;

	return map { $_->{params}{page} }
	  sort { $a->{time} <=> $b->{time} }
	  grep { !$_->{deferred} } $sandbox->journal(method => 'orders');
}

sub use_sandbox
{
	my ($sandbox, @sessions) = @_;

	set_server($node, { 'tegro.api_url' => $sandbox->api_url }, @sessions);
	return;
}


#
# Ten thousand orders, a hundred to a page, 50 ms each
#

my $session = session($node);
use_sandbox($slow, $session);
$slow->begin;
make_orders($session, 1, 10_000);

# Forgets the journal so far, but no order.
sub forget_journal
{
	my ($sandbox) = @_;

	$sandbox->journal;
	$sandbox->{lines} = [];
	return;
}

# How many round trips a scan took: requests that were read within the latency
# of an earlier one were on their way together.
sub round_trips
{
	my ($trips, $end) = (0, 0);

	foreach my $time (sort { $a <=> $b } map { $_->{time} } @_)
	{
		next if $time < $end;
		$trips++;
		$end = $time + LATENCY_MS / 1000;
	}
	return $trips;
}

# Runs a query, and again if it took more round trips than it should: on a busy
# machine a page can be late by chance.  Tests what it took at best; returns the
# last result.
sub in_few_round_trips
{
	my ($sql, $most, $name) = @_;
	my ($result, @trips);

	foreach my $turn (1 .. 5)
	{
		forget_journal($slow);
		$result = $session->query($sql);
		push @trips, round_trips($slow->journal);
		last if $trips[-1] <= $most;
	}
	cmp_ok(min(@trips), '<=', $most, $name) or diag("round trips: @trips");
	return $result;
}

my $result = in_few_round_trips(
	'SELECT count(*), count(DISTINCT id), sum(amount) FROM orders',
	101 / 8, 'at least 8 times fewer round trips than pages');
is($result->{out}, '10000|10000|' . 10_000 * 10_001 / 2 . '.00000000',
	'each of 10,000 orders comes once');
my %asked;
$asked{$_}++ foreach pages($slow);
is(join(' ', grep { $asked{$_} != 1 } sort { $a <=> $b } keys %asked),
	'1', 'no page was asked for twice, but the first');
is($asked{1}, 2, 'which tells at the end whether the list moved');
is(scalar(grep { $_ <= 101 } keys %asked), 101, 'all pages, and one past the end');
cmp_ok(max(keys %asked), '<=', 101 + 32, 'not many pages past the end');

# the planner's estimate, where it is known: nothing is asked for in vain
$session->query('ANALYZE orders');
is(in_few_round_trips('SELECT count(*) FROM orders', 101 / 6, 'hardly more round trips after ANALYZE')->{out},
	'10000', '... for all');
is(join(' ', sort { $a <=> $b } pages($slow)), join(' ', 1, 1 .. 101), '... no page past the end is asked for but one');
$session->query(q{UPDATE pg_class SET reltuples = 2000 WHERE relname = 'orders'});
is(in_few_round_trips('SELECT count(*) FROM orders', 101 / 4, 'a list that has grown since')->{out},
	'10000', '... is read ahead beyond what was known, too');
$session->query(q{UPDATE pg_class SET reltuples = -1 WHERE relname = 'orders'});

$result = $session->query('EXPLAIN (ANALYZE, COSTS OFF) SELECT FROM orders');
like($result->{out}, qr/Requests: 1[0-3]\d$/m, 'EXPLAIN ANALYZE counts the requests');
like($result->{out}, qr/Requests at Once: (?:[89]|[12]\d|3[0-2])$/m, '... and how many were in flight');

forget_journal($slow);
$result = $session->query(
	'SET tegro.max_concurrency = 1; SELECT count(*) FROM (SELECT FROM orders LIMIT 1000) o; RESET tegro.max_concurrency');
is($result->{out}, '1000', 'one page at a time');
is(join(' ', pages($slow)), join(' ', 1 .. 10), '... in order, and none too many');
is(round_trips($slow->journal), 10, '... takes as many round trips');

forget_journal($slow);
is($session->query('SELECT count(*) FROM (SELECT FROM orders LIMIT 10) o')->{out},
	'10', 'LIMIT 10');
is(join(' ', pages($slow)), '1', '... asks for one page');

forget_journal($slow);
$session->query('SELECT count(*) FROM (SELECT FROM orders LIMIT 1000) o');
cmp_ok(scalar(pages($slow)), '<=', 20, 'LIMIT stops paging: at most twice what was taken');

forget_journal($slow);
is( $session->query(q{SELECT amount FROM orders WHERE payment_id = 'order 77'})->{out},
	'77.00000000', 'payment_id finds an order');
is(join(' ', map { "$_->{method} $_->{params}{payment_id}" } $slow->journal),
	'order order 77', '... with one request');
is( in_few_round_trips(
		q{SELECT count(*) FROM orders WHERE payment_id = ANY (ARRAY(SELECT 'order ' || i FROM generate_series(1, 64) i))},
		8, 'payment_ids are looked up many at once'
	)->{out},
	'64', '64 payment_ids find 64 orders');
is(scalar($slow->journal(method => 'order')), 64, '... with as many requests');

# EXPLAIN, planning and what can't match send nothing
forget_journal($slow);
$session->query('EXPLAIN (VERBOSE) SELECT * FROM orders JOIN withdrawals USING (payment_id)');
$session->query('PREPARE p AS SELECT * FROM orders WHERE id = $1; EXECUTE p(NULL)');
is(scalar($slow->journal), 0, 'EXPLAIN and what no row can match ask nobody');

# Two at a time.  Page 4 fails while page 3 is held; page 5 is asked for when page
# 3 has come, and page 4 once more while page 5 is in flight.  If page 5 fails,
# the reason can be that page 4 has overtaken it.  Which of pages 3 and 4 the
# sandbox holds is chance: until it is page 3.
subtest 'a page that another one can have overtaken is asked for once more' => sub {
	my %hit;

	$session->query('SET tegro.max_concurrency = 2');
	foreach my $turn (1 .. 40)
	{
		forget_journal($slow);
		$slow->fault('orders', 'hold', ms => 200, skip => 2);
		$slow->fault('orders', 'answer', body => '{"type":"error","desc":"Not today"}', times => 2);
		$result = $session->query('SELECT count(*) FROM (SELECT FROM orders LIMIT 500) o');
		$slow->clear_faults;
		%hit = ();
		$hit{ $_->{fault} } .= $_->{params}{page} foreach grep { $_->{fault} && !$_->{deferred} } $slow->journal;
		last if "@hit{qw(hold answer)}" eq '3 45';
	}
	$session->query('RESET tegro.max_concurrency');
	is("@hit{qw(hold answer)}", '3 45', 'page 3 was held, pages 4 and 5 failed');
	is($result->{out}, '500', '... and came when asked for again');
};

# what a scan leaves in flight does not stay
my $before = descriptors($session->pid);
$session->query('SELECT FROM orders OFFSET 2000 LIMIT 1') foreach 1 .. 3;
cmp_ok(descriptors($session->pid), '<=', $before + 1, 'scans that stop early leave no connections behind');

#
# Cancel
#

sub cancel
{
	my ($name, $sql) = @_;
	my @ms;

	foreach my $turn (1 .. 5)
	{
		my $count = scalar($slow->journal);

		$session->send($sql);
		wait_until(sub { scalar($slow->journal) > $count + 4 });
		sleep 0.1;
		my $cancelled = time;
		kill('INT', $session->pid);
		$result = $session->wait;
		push @ms, own_ms($cancelled, $result->{ended});
		last if $ms[-1] <= LIMIT_MS;
	}
	is($result->{sqlstate}, '57014', "$name can be cancelled");
	cmp_ok(min(@ms), '<=', LIMIT_MS, '... at once');
	return;
}

$slow->fault('orders', 'hold', ms => 60_000, times => -1, skip => 4);
cancel('a scan with pages in flight', 'SELECT count(*) FROM orders');
$slow->clear_faults;
$slow->fault('order', 'hold', ms => 60_000, times => -1);
cancel('a lookup of many',
	q{SELECT count(*) FROM orders WHERE payment_id = ANY (ARRAY(SELECT 'order ' || i FROM generate_series(1, 64) i))});
$slow->clear_faults;
is($session->query('SELECT count(*) FROM (SELECT FROM orders LIMIT 250) o')->{out},
	'250', 'and the session goes on');
cmp_ok(descriptors($session->pid), '<=', $before + 1, '... without the connections of what was cancelled');
$slow->fault('orders', 'hold', ms => 60_000, times => -1, skip => 4);
$result = $session->query(
	q{SET statement_timeout = '500ms'; SELECT count(*) FROM orders});
is($result->{sqlstate}, '57014', 'statement_timeout ends a scan');
$slow->clear_faults;
$session->query('RESET statement_timeout');

# an error that is caught: what was in flight is stopped then, not at the end
$slow->fault('orders', 'hold', ms => 60_000, times => -1, skip => 4);
$result = $session->query(<<'END');
BEGIN;
DO $$
DECLARE
	n int := 0;
	o record;
BEGIN
	FOR o IN SELECT id FROM orders LOOP
		n := n + 1;
		IF n = 250 THEN PERFORM 1 / 0; END IF;
	END LOOP;
EXCEPTION WHEN division_by_zero THEN
	RAISE NOTICE 'caught after %', n;
END $$
END
like($result->{err}, qr/caught after 250/, 'an error amid a scan is caught');
cmp_ok(descriptors($session->pid), '<=', $before + 1, '... and what was in flight is stopped');
$session->query('ROLLBACK');
$slow->clear_faults;

#
# Cursors that rest
#

$session->query(q{SET tegro.timeout = '2s'});
$session->query('BEGIN; DECLARE c CURSOR FOR SELECT id FROM orders WHERE amount <= 10000; MOVE 350 FROM c');
sleep 2.5;
$result = $session->query('MOVE ALL FROM c; COMMIT');
is($result->{err}, '', 'a cursor may rest for longer than tegro.timeout');
$session->query('RESET tegro.timeout');

#
# Rescans
#

# Four hundred orders, fifty to a page: eight pages, and the empty one that ends
# them.  One at a time, so that it is certain which pages are needed.
use constant ALL_PAGES => join(' ', 1 .. 9);

use_sandbox($still, $session);
$still->begin;
$session->query('SET tegro.max_concurrency = 1');
is( $session->query(
		q{SELECT count(tegro_create_order(jsonb_build_object('order_id', 'order ' || i, 'currency', 'RUB', 'amount', i)))
		    FROM generate_series(1, 400) i})->{out},
	'400', '400 orders are made, one after another');

# Runs a query; tests its result, and which requests it sent: pages, or keys.
sub asks
{
	my ($sql, $out, $asked, $name) = @_;

	forget_journal($still);
	my $result = $session->query($sql);
	is($result->{out}, $out, $name) or diag($result->{err});
	is( join(' ', map { $_->{params}{page} // $_->{params}{payment_id} // $_->{params}{order_id} }
			$still->journal),
		$asked, "... asks for: $asked");
	return;
}

subtest 'a rescan reads the rows that are kept' => sub {
	asks('SELECT sum((SELECT count(*) FROM orders WHERE amount > i)) FROM generate_series(1, 5) i',
		'1985', ALL_PAGES, 'a correlated subquery');
	$session->query('SET enable_material = off; SET enable_hashjoin = off; SET enable_mergejoin = off');
	asks('SELECT count(amount) FROM generate_series(1, 5) i LEFT JOIN orders ON amount > i',
		'1985', ALL_PAGES, 'a nested loop');
	like($session->query('EXPLAIN (ANALYZE, COSTS OFF) SELECT FROM generate_series(1, 5) i LEFT JOIN orders ON amount > i')->{out},
		qr/Requests: 9\n.*\n +Rows Reused: 1600$/m, '... EXPLAIN ANALYZE counts both');
	$session->query('RESET enable_material; RESET enable_hashjoin; RESET enable_mergejoin');
	asks('SELECT count(*) FROM (SELECT (SELECT max(id) FROM orders WHERE amount <= i) FROM generate_series(1, 400) i) s WHERE max > 0',
		'400', ALL_PAGES, '400 rescans');
	asks(q{SELECT sum((SELECT count(*) FROM orders WHERE payment_id = k)) FROM unnest(ARRAY['', '']) k},
		'0', ALL_PAGES, 'a list that takes the place of a lookup');
	is($session->query('SELECT sum(n) FROM (SELECT (SELECT sum(length(other_fields::text)) FROM orders WHERE amount > i) AS n FROM generate_series(1, 2) i) s')->{out},
		$session->query('SELECT sum((400 - i) * length((SELECT other_fields::text FROM orders LIMIT 1))) FROM generate_series(1, 2) i')->{out},
		'kept rows have the values of all columns');
};

subtest 'a rescan continues where the scan before it stopped' => sub {
	my $limit = q{SELECT string_agg((SELECT trunc(amount) FROM orders WHERE amount <= n LIMIT 1)::text, ' ')
		FROM unnest(ARRAY[400, 250, 399, 120, 300]) n};

	asks($limit, '400 250 399 120 300', join(' ', 1 .. 6), 'LIMIT');
	forget_journal($still);
	is($session->query("SET tegro.max_concurrency = 8; $limit; SET tegro.max_concurrency = 1")->{out},
		'400 250 399 120 300', '... with pages in flight between two rescans');
	my %asked;
	$asked{$_}++ foreach pages($still);
	is(join(' ', grep { $asked{$_} > 1 } sort keys %asked), '', '... each of which is asked for once');
	# the last row of a page, its first, and the end of the list
	asks(q{SELECT string_agg((SELECT coalesce(min(amount)::int, 0) FROM (SELECT amount FROM orders OFFSET n LIMIT 1) o)::text, ' ')
		FROM unnest(ARRAY[49, 50, 0, 399, 400, 1000, 399]) n},
		'351 350 400 1 0 0 1', ALL_PAGES, 'at the ends of pages and of the list');
};

subtest 'a rescan with other keys asks again' => sub {
	my $amounts = q{SELECT string_agg(coalesce((SELECT trunc(amount)::text FROM orders WHERE %s), '-'), ' ') FROM %s};

	asks(sprintf($amounts, 'payment_id = k', q{unnest(ARRAY['order 1', 'order 1', NULL, 'order 1', 'order 2', 'order 1', 'none', 'none']) k}),
		'1 1 - 1 2 1 - -', 'order 1 order 2 order 1 none', 'the last key is remembered, also across NULL');
	my ($id) = $session->query(q{SELECT id FROM orders WHERE payment_id = 'order 1'})->{out};
	asks(sprintf($amounts, 'id = k', "unnest(ARRAY[$id, -1, $id, @{[ $id + 1 ]}, $id]) k"),
		'1 - 1 2 1', "$id @{[ $id + 1 ]} $id", 'by id; no order has a number below 1');
	asks(sprintf($amounts, q{payment_id = ANY (string_to_array(k, ',')) LIMIT 1},
			q{unnest(ARRAY['order 7,order 8', 'order 8,order 7,order 8', 'order 7', '']) k}),
		'7 7 7 -', 'order 7 order 7', 'the same keys in another order are the same request');
	my $shop = SHOP_ID;
	my $other = $session->query("SELECT set_config('tegro.shop_id', s, false), (SELECT count(*) FROM orders WHERE amount > n)
		FROM (VALUES (1, '$shop'), (2, 'another')) v (n, s)");
	is($other->{sqlstate}, 'TG006', 'the rows of one shop are not returned for another');
	$session->query('RESET tegro.shop_id');
};

subtest 'a list is that of one shop' => sub {
	forget_journal($still);
	$session->query('BEGIN; DECLARE c CURSOR FOR SELECT FROM orders; MOVE 60 FROM c');
	is($session->query(q{SET LOCAL tegro.shop_id = 'another'; MOVE ALL FROM c; ROLLBACK})->{err}, '', 'tegro.shop_id changes amid a scan');
	is(join(' ', pages($still)), ALL_PAGES, '... which reads on');
	is(scalar(grep { $_->{params}{shop_id} ne SHOP_ID } $still->journal), 0, '... the list that it began with');
};

subtest 'kept rows outlive what they should, and no more' => sub {
	$session->query(q{SET work_mem = '64kB'});
	forget_journal($still);
	my $result = $session->query(<<'END');
BEGIN;
DECLARE c CURSOR FOR SELECT (SELECT count(payment_id) FROM orders WHERE amount > i) FROM generate_series(1, 5) i;
SAVEPOINT s;
FETCH 2 FROM c;
ROLLBACK TO s;
FETCH 2 FROM c;
COMMIT;
END
	is("$result->{out}$result->{err}", "399\n398\n397\n396", 'a subtransaction that first read them is rolled back');
	is(join(' ', pages($still)), ALL_PAGES, '... they stay');

	$result = $session->query(<<'END');
DO $$
DECLARE
	o record;
BEGIN
	FOR i IN 1 .. 3 LOOP
		BEGIN
			FOR o IN SELECT (SELECT count(payment_id) FROM orders WHERE amount > k) AS n FROM generate_series(1, 50) k LOOP
				PERFORM 1 / (o.n - 390);
			END LOOP;
		EXCEPTION WHEN division_by_zero THEN
			RAISE NOTICE 'caught at %', o.n;
		END;
	END LOOP;
END $$
END
	is(scalar(() = $result->{err} =~ /caught at 390/g), 3, 'errors amid rescans are caught');
	unlike($result->{err}, qr/WARNING|ERROR/, '... and leave nothing open');
	is($session->query('SELECT count(*) FROM pg_ls_tmpdir()')->{out}, '0', '... and no file');

	$session->query('BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT (SELECT count(*) FROM orders WHERE amount > i) FROM generate_series(1, 5) i');
	forget_journal($still);
	is($session->query('FETCH 1 FROM c; COMMIT; FETCH ALL FROM c; CLOSE c')->{out}, "399\n398\n397\n396\n395", 'WITH HOLD');
	is(join(' ', pages($still)), ALL_PAGES, '... asks once');
	$session->query('RESET work_mem');
};

subtest 'a rescan can be cancelled' => sub {
	forget_journal($still);
	$session->send('SELECT count((SELECT count(*) FROM orders WHERE amount > i)) FROM generate_series(1, 10000000) i');
	wait_until(sub { scalar($still->journal) >= 9 });
	sleep 0.3;
	my $cancelled = time;
	kill('INT', $session->pid);
	my $result = $session->wait;
	is($result->{sqlstate}, '57014', 'while it reads kept rows');
	cmp_ok(own_ms($cancelled, $result->{ended}), '<=', LIMIT_MS, '... at once');
	is(scalar($still->journal), 9, '... which asked once');

	$still->fault('orders', 'hold', ms => 60_000, times => -1, skip => 3);
	forget_journal($still);
	$session->send('SELECT count((SELECT id FROM orders WHERE amount <= n LIMIT 1)) FROM unnest(ARRAY[400, 390, 300, 1]) n');
	wait_until(sub { scalar($still->journal) >= 4 });
	$cancelled = time;
	kill('INT', $session->pid);
	$result = $session->wait;
	is($result->{sqlstate}, '57014', 'while it waits for the next page');
	cmp_ok(own_ms($cancelled, $result->{ended}), '<=', LIMIT_MS, '... at once');
	$still->clear_faults;
	asks('SELECT sum((SELECT count(*) FROM orders WHERE amount > i)) FROM generate_series(1, 5) i',
		'1985', ALL_PAGES, 'the next statement begins anew');
};
$session->query('RESET tegro.max_concurrency');
$session->close;

subtest 'the memory of a scan is bounded' => sub {
	use_sandbox($slow);
	my $session = session($node);
	$session->query(q{SET enable_material = off; SET work_mem = '64kB'; SET jit = off});
	my $scans = sub {
		return $session->query(
			"SELECT count(*) FROM generate_series(1, $_[0]) i LEFT JOIN LATERAL (SELECT amount FROM orders WHERE amount > i OFFSET 0) o ON true");
	};
	$scans->(2);
	my $high = vm_hwm_kb($session->pid);
	is($scans->(10)->{out}, 10 * 10_000 - 55, 'ten scans in one statement');
	# of which the first has up to 32 pages in flight, that is, up to 10 MB
	cmp_ok(vm_hwm_kb($session->pid) - $high, '<', 16384, '... take no more memory than two');
	$high = vm_hwm_kb($session->pid);
	is($scans->(200)->{out}, 200 * 10_000 - 200 * 201 / 2, '200 scans');
	cmp_ok(vm_hwm_kb($session->pid) - $high, '<', 8192, '... take no more than ten');
	like($session->query('EXPLAIN (ANALYZE, BUFFERS) SELECT (SELECT count(payment_id) FROM orders WHERE amount > i) FROM generate_series(1, 2) i')->{out},
		qr/temp read=\d+ written=\d+/, 'what does not fit in work_mem is on disk');
	unlike($session->query('EXPLAIN (ANALYZE, BUFFERS) SELECT count(payment_id) FROM orders')->{out},
		qr/temp|Reused/, 'a scan that nothing can rescan keeps no rows');
	$session->close;
};


#
# A list that moves
#

use_sandbox($small);
$session = session($node);
my $maker = session($node);
$small->begin;
make_orders($session, 1, 200);

# What should have come, and what came, of the orders that were there before.
sub came_once
{
	my ($out, $name) = @_;
	my %came;

	$came{$_}++ foreach split(/\n/, $out);
	is(scalar(grep { ($came{"order $_"} // 0) == 1 } 1 .. 200), 200, $name);
	is(scalar(grep { $_ > 1 } values %came), 0, '... and no order twice');
	return;
}

# Between two pages: rows of the first come again with the second.
$session->query('BEGIN; DECLARE c CURSOR FOR SELECT payment_id FROM orders');
my $out = $session->query('FETCH 15 FROM c')->{out};
make_orders($maker, 1001, 1007);
$out .= "\n" . $session->query('FETCH ALL FROM c')->{out};
$session->query('COMMIT');
came_once($out, 'orders made between two pages');

# While pages are asked for together: the provider reads page 4, orders are
# made, it reads page 3.  The last rows of page 3 are on neither.  The two leave
# together, and which of them the sandbox holds is chance: until it is page 3.
sub overtake
{
	my ($from, $to) = @_;
	my $hold_ms = 1500;

	foreach my $turn (1 .. 40)
	{
		forget_journal($small);
		$small->fault('orders', 'hold', ms => $hold_ms, skip => 2);
		$session->send('SELECT payment_id FROM orders');
		my ($held, $read_4);
		wait_until(
			sub {
				my @lines = $small->journal(method => 'orders');
				($held) = map { $_->{params}{page} } grep { ($_->{fault} // '') eq 'hold' } @lines;
				$read_4 = grep { $_->{params}{page} == 4 && $_->{verdict} eq 'success' } @lines;
				return defined $held && ($held != 3 || $read_4);
			});
		if ($held == 3)
		{
			make_orders($maker, $from, $to);
			my $answer = $session->wait;
			my @made = map { $_->{time} } $small->journal(method => 'createOrder');
			my ($page_3) = map { $_->{time} }
			  grep { $_->{params}{page} == 3 && $_->{verdict} eq 'success' }
			  $small->journal(method => 'orders');
			if ($page_3 < max(@made) && $hold_ms < 20_000)
			{
				# it took longer than page 3 was held: again, with others
				$hold_ms *= 3;
				$_ += 100 foreach $from, $to;
				next;
			}
			cmp_ok($page_3, '>', max(@made), '... before the provider read page 3');
			return $answer->{out};
		}
		kill('INT', $session->pid);
		$session->wait;
	}
	die 'the sandbox never held page 3';
}

came_once(overtake(2001, 2007), 'orders made between pages 4 and 3');
my @pages = pages($small);
is(scalar(grep { $_ == 1 } @pages), 2, 'the first page was asked for twice');
is(scalar(grep { $_ == 4 } @pages), 2, '... and what was in doubt twice');
is(scalar(grep { $_ == 2 } @pages), 1, '... and no other');

# By more than a page: the second reading no longer overlaps with the first, so
# that both could miss one.
came_once(overtake(3001, 3035), 'orders made between pages 4 and 3, more than a page of them');
@pages = pages($small);
is(scalar(grep { $_ == 1 } @pages), 2, 'the first page was asked for twice');
is(scalar(grep { $_ == 4 } @pages), 2, '... the page after which there can be a gap, too');
is(scalar(grep { $_ == 5 } @pages), 3, '... and the next once more, after it had come');
my %read;
push @{ $read{ $_->{params}{page} } }, $_->{time} foreach grep { !$_->{deferred} } $small->journal(method => 'orders');
my @last = map { max(@{ $read{$_} }) } sort { $a <=> $b } grep { @{ $read{$_} } == 3 } keys %read;
cmp_ok(scalar(@last), '>=', 18, '... and so are all that follow');
is(join(' ', @last), join(' ', sort { $a <=> $b } @last), '... one after another');

# The list stands still: nothing is asked for again.
forget_journal($small);
came_once($session->query('SELECT payment_id FROM orders')->{out}, 'a list that stands still');
@pages = pages($small);
is(scalar(grep { $_ == 1 } @pages), 2, 'the first page was asked for twice');
is(scalar(grep { $_ == 4 } @pages), 1, '... and no other');

# Orders that are made all the time, faster than the list is read.
$maker->send(<<'END');
DO $$
BEGIN
	FOR i IN 4001 .. 4400 LOOP
		PERFORM tegro_create_order(jsonb_build_object('order_id', 'order ' || i, 'currency', 'RUB', 'amount', 1));
	END LOOP;
END $$
END
foreach my $turn (1 .. 5)
{
	came_once($session->query('SELECT payment_id FROM orders')->{out}, "orders made all the while, $turn");
}
is($maker->wait->{err}, '', 'they were made');

#
# A provider that takes less
#

use_sandbox($rising, $session);
$rising->begin;
make_orders($session, 1, 1);
$session->query(
	q{SELECT count(tegro_create_order(jsonb_build_object('order_id', 'order ' || i, 'currency', 'RUB', 'amount', i)))
	    FROM generate_series(2, 200) i});
came_once($session->query('SELECT payment_id FROM orders')->{out}, 'a provider that wants nonces to rise');

use_sandbox($small, $session, $maker);
$small->fault('orders', 'answer', status => 429, body => 'slow down', skip => 6, times => 8);
came_once($session->query('SELECT payment_id FROM orders')->{out}, 'a provider that takes no more for a while');
$small->clear_faults;
$small->fault('orders', 'execute_then_close', skip => 6, times => 4);
came_once($session->query('SELECT payment_id FROM orders')->{out}, 'connections that are lost');
$small->clear_faults;


#
# A row that is checked anew, after another session has changed it
#

$session->query(q{CREATE TABLE sale (reference text, note text);
	INSERT INTO sale VALUES ('order 7'), ('order 8'); ANALYZE sale});
forget_journal($small);
$maker->query(q{BEGIN; UPDATE sale SET note = 'taken'});
$session->send(q{UPDATE sale SET note = coalesce(note, '') || ' ' || amount FROM orders WHERE payment_id = reference});
wait_until(sub { $maker->query(qq{SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = @{[ $session->pid ]}})->{out} > 0 });
my $asked = $small->journal(method => 'order');
$maker->query('COMMIT');
is($session->wait->{err}, '', 'a row that another session has changed is checked anew');
is( $session->query('SELECT reference, note FROM sale ORDER BY 1')->{out},
	"order 7|taken 7.00000000\norder 8|taken 8.00000000", '... with the order that was found');
cmp_ok($asked, '>=', 1, '... an order was asked for before');
is(scalar($small->journal(method => 'order')), 2, '... and each of the two once');

#
# A collation that holds more to be equal than the provider does
#

$session->query(
	q{CREATE COLLATION no_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false)});
is( $session->query(q{SELECT amount FROM orders WHERE payment_id = 'ORDER 7' COLLATE no_case})->{out},
	'7.00000000', 'a condition that the provider would not understand reads the list');


#
# Whose keys
#

$session->query(q{CREATE ROLE alice LOGIN; CREATE ROLE bob LOGIN; CREATE ROLE carol LOGIN;
	CREATE SCHEMA alices AUTHORIZATION alice; GRANT USAGE ON SCHEMA alices TO bob;
	GRANT SELECT ON orders TO alice, bob});
my $credentials = PostgreSQL::Test::Utils::tempdir() . '/credentials';
open(my $file, '>', $credentials) or die "could not write $credentials: $!";
print {$file} join(':', SHOP_ID, 'alice', API_KEY, SECRET_KEY), "\n";
close($file);
chmod(0600, $credentials);
$node->append_conf('postgresql.conf', "tegro.credentials_file = '$credentials'");
reload_conf($node);

my $alice = session($node, user => 'alice');
is($alice->query('SELECT count(*) > 0 FROM orders')->{out}, 't', 'who has a key reads');
is($alice->query('CREATE VIEW alices.few AS SELECT payment_id FROM public.orders WHERE amount < 3')->{err},
	'', 'and makes a view of it');
$alice->query('GRANT SELECT ON alices.few TO bob');
my $bob = session($node, user => 'bob');
$result = $bob->query('SELECT count(*) FROM orders');
is($result->{sqlstate}, 'TG006', 'who has none does not');
is($bob->query('SELECT count(*) > 0 FROM alices.few')->{out}, 't', 'a view is read with the keys of its owner');
is($bob->query(q{SELECT count(*) FROM alices.few WHERE payment_id = 'order 2'})->{out}, '1', '... in lookups, too');
is(query($node, 'SELECT FROM orders', user => 'carol')->{sqlstate}, '42501', 'who was not granted SELECT sees nothing');
is(query($node, 'CREATE SERVER own FOREIGN DATA WRAPPER tegro_fdw', user => 'alice')->{sqlstate},
	'42501', 'nor does everyone make servers');


#
# A standby
#

$node->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->start;
my $there = session($standby, user => 'alice');
is($there->query('SELECT pg_is_in_recovery()')->{out}, 't', 'on a standby');
came_once($there->query('SELECT payment_id FROM orders')->{out}, '... a list is read, by an ordinary role');
is($there->query(q{SELECT amount FROM orders WHERE payment_id = 'order 7'})->{out}, '7.00000000', '... and an order looked up');
$there->close;
$standby->stop;


#
# A provider that can't be reached
#

subtest 'a list that could not be asked for is an error, not an empty table' => sub {
	set_server($node, { 'tegro.api_url' => 'http://127.0.0.1:1/api' });
	my $refused = query($node, 'SELECT count(*) FROM orders', user => 'alice');
	is($refused->{sqlstate}, 'TG002', 'nothing was sent');
	is($refused->{out}, '', 'no row is returned');
	like($refused->{err}, qr/CONTEXT: +page 1 of the list "orders"/, 'the error names the page');
};

done_testing();
