#
# Few file descriptors: a server that may open 256 files for each process answers
# batches with 1,000 requests at once and delivers, and disturbs nothing else that
# the session has open.
#
# A soak repeats one transaction that holds files of every kind while batches of
# 2,000 calls run: sorts and cursors that spilled to disk, temporary tables, COPY
# in both directions, files of file_fdw, connections of postgres_fdw and dblink.
# What each of them gives must be whole.  After some rounds, memory and descriptors
# must no longer grow.  The short version has 4 rounds, the long one ("script/test
# --long") 60.
#
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use List::Util qw(max);
use Test::More;
use TegroTest;
use TegroOutbox qw(LONG);

use constant LIMIT => 256;

# Rounds of the soak.  Growth counts from half of them on, when caches are full.
use constant ROUNDS => LONG ? 60 : 4;

my %tls = (certificates => certificates());
my $sandbox = sandbox(%tls);

# A server is started by a process that may open so many files.
my $node = do
{
	my ($soft, $hard) = map { TegroTest::must_run('prlimit', '--pid', $$, '--nofile', '--noheadings', '-o', $_) =~ /(\w+)/ }
	  qw(SOFT HARD);

	TegroTest::must_run('prlimit', '--pid', $$, '--nofile=' . LIMIT . ":$hard");
	my $few = cluster('few', $sandbox, %tls, environment => { preload_library() }, conf => <<'END');
work_mem = 64kB
hash_mem_multiplier = 1
temp_buffers = 800kB
END
	TegroTest::must_run('prlimit', '--pid', $$, "--nofile=$soft:$hard");
	$few;
};

# As many calls as a batch has, as many at once as may be.
sub batch
{
	my ($calls, $columns) = @_;

	return "SELECT $columns FROM tegro_batch('balance', "
	  . "ARRAY(SELECT '{}'::jsonb FROM generate_series(1, $calls)))";
}

# All that are answered, and none twice.
my $answered = q{count(*) || ' ' || count(answer) || ' ' || count(DISTINCT position)};

# A session that asks for more at once than it can have; the sandbox takes so many
# milliseconds for each.
sub greedy
{
	my ($ms) = @_;
	my $session = session($node);

	$session->query('SET tegro.max_concurrency = 1000; SET tegro.read_retries = 0');
	$sandbox->begin;
	$sandbox->fault('*', 'hold', ms => $ms, times => -1);
	return $session;
}

#
# Batches
#

subtest 'fault 64: more at once than descriptors: less at once, and nothing fails' => sub {
	my $session = greedy(100);
	my $result = $session->query(batch(2000, $answered));

	is($result->{out}, '2000 2000 2000', 'all 2,000 calls are answered') or diag($result->{err});
	my $open = descriptors($session->pid);
	cmp_ok($open, '>', 60, 'many connections are kept');
	cmp_ok($open, '<', 150, 'but no more than a third of the descriptors');
	$result = $session->query(<<'SQL');
DO $$
BEGIN
	FOR i IN 1 .. 300
	LOOP
		EXECUTE format('CREATE TABLE t%s AS SELECT g, repeat(chr(64), 3000) FROM generate_series(1, 20) g', i);
	END LOOP;
END
$$;
SELECT count(*) > 1000 FROM pg_class, pg_attribute WHERE attrelid = pg_class.oid
SQL
	is($result->{out}, 't', 'the session opens files after it') or diag($result->{err});
	$result = $session->query('SET tegro.max_concurrency = 1; SELECT tegro_balance()');
	is($result->{sqlstate}, '', 'and makes a call') or diag($result->{err});
	$session->close;
};

subtest 'fault 64: a name takes more for a while' => sub {
	# a thread that looks it up, and its sockets; all lookups take their time
	set_server($node, { 'tegro.api_url' => 'https://slow-300-few.provider.test:' . $sandbox->port . '/api' });
	my $session = greedy(100);
	# PostgreSQL keeps as many files open as it may
	$session->query(q{DO $$ BEGIN FOR i IN 1 .. 300 LOOP EXECUTE format('SELECT count(*) FROM t%s', i); END LOOP; END $$});
	cmp_ok(descriptors($session->pid), '>', 150, 'many files are open');
	my $result = $session->query(batch(1000, $answered));

	is($result->{out}, '1000 1000 1000', 'all calls to a name are answered') or diag($result->{err});
	cmp_ok(measure($session->pid)->[0], '>', 40, 'as many connections are kept');
	$session->close;
	set_server($node, { 'tegro.api_url' => $sandbox->api_url });
};

#
# What else a session has open
#

use constant NUMBERS => 5000;

my $dir = TegroTest::scratch();
my $link = sprintf('dbname=postgres host=%s port=%s', $node->host, $node->port);
my $lines = spew("$dir/lines", join('', map { "$_\n" } 1 .. NUMBERS));
my $written = "$dir/written";

# take() reads so many rows of a cursor: how many it got, and their sum
{
	my ($host, $port) = ($node->host, $node->port);
	my $result = query($node, <<"SQL");
CREATE EXTENSION file_fdw;
CREATE EXTENSION postgres_fdw;
CREATE EXTENSION dblink;
CREATE TABLE numbers AS SELECT g AS n FROM generate_series(1, @{[ NUMBERS ]}) g;
CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
CREATE FOREIGN TABLE lines (n int) SERVER files OPTIONS (filename '$lines');
CREATE SERVER here FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '$host', port '$port', dbname 'postgres');
CREATE USER MAPPING FOR CURRENT_USER SERVER here;
CREATE FOREIGN TABLE remote (n int) SERVER here OPTIONS (table_name 'numbers', fetch_size '50');
CREATE FUNCTION take(c refcursor, most int) RETURNS text LANGUAGE plpgsql AS \$\$
DECLARE
	n int;
	got int := 0;
	total bigint := 0;
BEGIN
	WHILE got < most
	LOOP
		FETCH c INTO n;
		EXIT WHEN NOT FOUND;
		got := got + 1;
		total := total + n;
	END LOOP;
	RETURN got || ' ' || total;
END
\$\$;
CREATE FUNCTION run_batch() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN
	IF NEW.n % 1000 = 0
	THEN
		NEW.answered := (@{[ batch(400, 'count(answer)') ]});
	END IF;
	RETURN NEW;
END
\$\$;
SQL
	BAIL_OUT($result->{err}) if $result->{err} ne '';
}

# Cursors, 8 of each kind, and what they run over.
my %sources = (
	sorted => 'numbers ORDER BY md5(n::text)',
	from_file => 'lines',
	from_server => 'remote',
	temporary => 'scratch_#');
my %cursors = map { my $kind = $_; map { ("${kind}_$_" => $sources{$kind} =~ s/#/$_/r) } 1 .. 8 } keys %sources;

# Runs batches in the middle of all that a session can have open; dies of the first
# thing that goes wrong.
sub disturb
{
	my ($session) = @_;
	my %begun;
	my $ask = sub {
		my ($what, $sql) = @_;
		my $result = $session->query($sql);

		die "$what: $result->{err}" if $result->{err} ne '';
		return $result->{out};
	};
	my $expect = sub {
		my ($what, $out, $sql) = @_;
		my $got = $ask->($what, $sql);

		die "$what: \"$got\", not \"$out\"\n" if $got ne $out;
		return;
	};

	$ask->('temporary tables',
		join('; ', 'BEGIN', map { "CREATE TEMPORARY TABLE scratch_$_ ON COMMIT DROP AS SELECT n FROM numbers" } 1 .. 8));
	$ask->('a trigger', 'CREATE TEMPORARY TABLE copied (n int, answered bigint); '
		  . 'CREATE TRIGGER run_batch BEFORE INSERT ON copied FOR EACH ROW EXECUTE FUNCTION run_batch()');
	$expect->("link $_", 'OK', "SELECT dblink_connect('link_$_', '$link')") foreach 1 .. 3;
	foreach my $name (sort keys %cursors)
	{
		$ask->($name, "DECLARE $name CURSOR FOR SELECT n FROM $cursors{$name}");
		$begun{$name} = $ask->($name, "SELECT take('$name', 100)");
	}
	$ask->('a cursor that is held', 'DECLARE held CURSOR WITH HOLD FOR SELECT n FROM numbers ORDER BY md5(n::text)');

	$expect->('the batch', '2000 2000 2000', batch(2000, $answered));

	$expect->("link $_", NUMBERS, "SELECT * FROM dblink('link_$_', 'SELECT count(*) FROM numbers') AS t (n int)")
	  foreach 1 .. 3;
	$expect->("a link after it, $_", 'OK', "SELECT dblink_connect('late_$_', '$link')") foreach 1 .. 3;
	foreach my $name (sort keys %cursors)
	{
		my ($rows, $sum) = split(/ /, $begun{$name});
		my ($more_rows, $more_sum) = split(/ /, $ask->($name, "SELECT take('$name', 1000000)"));

		die "$name: $rows and $more_rows rows, $sum and $more_sum\n"
		  if $rows != 100 || $rows + $more_rows != NUMBERS || $sum + $more_sum != NUMBERS * (NUMBERS + 1) / 2;
	}
	$ask->('COPY TO', 'COPY (' . batch(2000, 'position') . ") TO '$written'");
	my $copied = () = TegroTest::slurp($written) =~ /\n/g;
	die "COPY TO: $copied rows\n" if $copied != 2000;
	$ask->('COPY FROM', "COPY copied (n) FROM '$lines'");
	$expect->('COPY FROM', NUMBERS . ' ' . 400 * NUMBERS / 1000, q{SELECT count(*) || ' ' || sum(answered) FROM copied});
	$ask->('the commit', 'COMMIT');
	$expect->('another batch', '2000 2000 2000', batch(2000, $answered));
	$expect->('a cursor that is held', NUMBERS . ' ' . NUMBERS * (NUMBERS + 1) / 2, q{SELECT take('held', 1000000)});
	$ask->('the end', 'CLOSE held; DROP TABLE copied; '
		  . "SELECT dblink_disconnect(name) FROM unnest(dblink_get_connections()) AS name");
	return;
}

# Has the worker deliver as many as it can at once.
sub deliver
{
	my ($session, $round) = @_;

	$session->query("SELECT count(tegro_enqueue('createOrder', jsonb_build_object('order_id', 'round $round ' || g, "
		  . "'currency', 'RUB', 'amount', 1))) FROM generate_series(1, 300) g");
	wait_until(sub { $session->query(q{SELECT count(*) FROM tegro_outbox WHERE state = 'accepted'})->{out} == 300 * $round; })
	  or die $session->query('SELECT state, count(*), min(message) FROM tegro_outbox GROUP BY 1')->{out};
	return;
}

# What a process has open, without files, of which PostgreSQL keeps as many as it
# can; and the memory that it has to itself, in kB.
sub measure
{
	my ($pid) = @_;
	my $open = grep { (readlink($_) // '/') !~ m{^/} } glob("/proc/$pid/fd/*");

	return [ $open, TegroTest::slurp("/proc/$pid/status") =~ /^RssAnon:\s+(\d+) kB/m ];
}

# What became of measurements from half of the rounds on, with so many requests in
# each.  Heaps still move by hundreds of kB, in either direction; beyond that, 10
# bytes a request are less than any allocation that could be lost with each.
sub is_flat
{
	my ($what, $requests, @measured) = @_;
	my @late = @measured[ @measured / 2 .. $#measured ];
	my $most_kb = 1000 + $#late * $requests * 10 / 1024;
	my $shown = join(', ', map { "$_->[0] descriptors and $_->[1] kB" } @measured);

	cmp_ok(max(map { $_->[0] } @late) - $late[0][0], '<=', 2, "$what: no more descriptors") or diag($shown);
	cmp_ok($late[-1][1] - $late[0][1], '<', $most_kb, "$what: no more memory") or diag($shown);
	return note("$what: $shown");
}

subtest 'fault 64: a batch disturbs nothing that the session has open' => sub {
	my $session = greedy(20);
	my $worker = q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'tegro delivery worker'};
	my $wrong = '';
	my (@session, @worker);

	set_server($node, { 'tegro.max_concurrency' => 1000 });
	$session->query('SET tegro.max_concurrency = 1000');
	foreach my $round (1 .. ROUNDS)
	{
		if (!eval { disturb($session); deliver($session, $round); 1 })
		{
			$wrong = "round $round: $@";
			last;
		}
		push @session, measure($session->pid);
		push @worker, measure($session->query($worker)->{out});
	}
	is($wrong, '', 'all that was open gives what it had to give');
	is_flat('the session', 8000, @session);
	is_flat('the worker', 300, @worker);
	$session->close;
};

is(scalar(() = TegroTest::slurp($node->logfile) =~ /Too many open files|out of file descriptors|too many open files/g), 0,
	'nobody was short of descriptors');

$node->stop;
done_testing;
