# 007_loading.pl: the library is loaded by shared_preload_libraries.
#
# Without preloading, everything that would load the library ends in one error,
# whose hint is a line that works.  A server that preloads it, but has the
# extension in no database or only in one, does its other work undisturbed.
# (That no session, role, database or function changes where requests go is shown
# by 005_access.pl.)

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

use TegroTest;

my $elsewhere = 'https://elsewhere.provider.test/api';

# A server without the extension, that preloads these libraries.
sub bare_cluster
{
	my ($name, $libraries) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(extra => [ '--encoding=UTF8', '--locale=C', '--auth=trust' ]);
	$node->append_conf('postgresql.conf', "shared_preload_libraries = '$libraries'\nlog_statement = 'none'");
	$node->start;
	return $node;
}

# The errors and warnings in what a session was told.
sub complaints
{
	my ($text) = @_;

	return $text =~ /^(?:WARNING|ERROR|FATAL|PANIC): .*$/mg;
}

# What a server's log has, from a position on, that it would not have without the
# library.  Every server tells where it listens (paths of a test may have any
# name in them) and which background workers end with it.
sub remarkable
{
	my ($node, $from) = @_;
	my $log = substr(TegroTest::slurp($node->logfile), $from // 0);

	return join(
		"\n",
		grep { /tegro|background worker|WARNING:|ERROR:|FATAL:|PANIC:|TRAP:/ }
		grep { !/listening on Unix socket|"(?:tegro|logical replication) launcher" \(PID \d+\) exited with exit code 1$/ }
		grep { !/FATAL: .* terminating connection due to administrator command$/ } split(/\n/, $log));
}

# A statement ends in the one error that the library is not preloaded; returns
# its hint.
sub is_not_preloaded
{
	my ($session, $sql, $name) = @_;
	my $result = $session->query($sql);

	is($result->{sqlstate}, '55000', "$name: object not in prerequisite state") or diag($result->{err});
	is($result->{message}, 'tegro is not in shared_preload_libraries', "$name: the message");
	is($result->{detail}, '', "$name: no detail");
	is(scalar(complaints($result->{err})), 1, "$name: one error and no warning") or diag($result->{err});
	ok(!$result->{lost}, "$name: the session goes on");
	return $result->{hint};
}

my $hint_begins = 'Add this line to postgresql.conf and restart the server:  ';

subtest 'without preloading, the error shows the line to add' => sub {
	# any library that may be preloaded
	foreach my $libraries ('', 'plpgsql')
	{
		my $node = bare_cluster($libraries ? 'others' : 'none', $libraries);
		my $session = session($node);
		my $line = "shared_preload_libraries = '" . join(', ', grep { $_ } $libraries, 'tegro') . q{'};

		# again in the same session, for loading has failed there
		foreach my $sql ('CREATE EXTENSION tegro', q{LOAD 'tegro'}, 'CREATE EXTENSION tegro', q{LOAD 'tegro'})
		{
			is(is_not_preloaded($session, $sql, $sql), $hint_begins . $line, "$sql: the hint");
		}
		is($session->query('SELECT count(*) FROM pg_extension WHERE extname = \'tegro\'')->{out},
			'0', 'nothing was created');
		is($session->query('SELECT count(*) FROM pg_settings WHERE name LIKE \'tegro.%\'')->{out},
			'0', 'nor a setting defined');
		$session->close;

		$node->append_conf('postgresql.conf', $line);
		$node->restart;
		is(query($node, 'CREATE EXTENSION tegro')->{err}, '', 'with that line, the extension can be created');
		like(query($node, q{SELECT tegro_call('balance', '{"shop_id": "x"}')})->{err},
			qr/tegro\.credentials_file/, 'and called: now a key is missing');
		$node->stop;
	}
};

subtest 'preloading cannot be left to the session' => sub {
	my $node = bare_cluster('session', '');

	$node->safe_psql('postgres', 'CREATE ROLE eager LOGIN; '
		  . q{ALTER ROLE eager SET session_preload_libraries = 'tegro'});
	ok(!eval { session($node, user => 'eager')->close; 1 }, 'session_preload_libraries does not load it');
	like($@, qr/FATAL:  tegro is not in shared_preload_libraries/, 'and ends the session with the same error');
	is(query($node, 'SELECT 1')->{out}, '1', 'others go on');
	$node->stop;
};

subtest 'a server that no longer preloads it' => sub {
	my $sandbox = sandbox();
	my $node = cluster('formerly', $sandbox);

	$node->safe_psql('postgres', <<'SQL');
CREATE TABLE sale (order_id text, amount numeric, currency text);
CREATE TRIGGER pay AFTER INSERT ON sale FOR EACH ROW EXECUTE FUNCTION
	tegro_create_order_trigger('{"order_id": "$order_id", "amount": "$amount", "currency": "$currency"}');
CREATE SERVER shop FOREIGN DATA WRAPPER tegro_fdw;
IMPORT FOREIGN SCHEMA tegro FROM SERVER shop INTO public;
CREATE ROLE clerk LOGIN;
SQL
	# the file still has settings of tegro
	$node->append_conf('postgresql.conf', q{shared_preload_libraries = ''});
	my $log_from = -s $node->logfile;
	$node->restart;
	is(remarkable($node, $log_from), '', 'it starts without a remark');

	my $session = session($node);
	foreach my $sql (
		'SELECT tegro_balance()',
		q{SELECT tegro_create_order('{"order_id": "1", "amount": 1, "currency": "RUB"}')},
		q{SELECT tegro_enqueue('createOrder', '{"order_id": "1", "amount": 1, "currency": "RUB"}')},
		q{INSERT INTO sale VALUES ('1', 1, 'RUB')},
		'SELECT * FROM orders')
	{
		is(is_not_preloaded($session, $sql, $sql), "${hint_begins}shared_preload_libraries = 'tegro'", "$sql: the hint");
	}
	is($session->query('SELECT count(*) FROM sale')->{out}, '0', 'nothing was inserted that could not be sent');
	is($session->query('SELECT count(*) FROM tegro_outbox')->{out}, '0', 'the outbox can be read');
	is(scalar($sandbox->journal), 0, 'nothing was sent');

	# now it is no setting, and a superuser may give it to a role or a database
	foreach my $whose ('ROLE clerk', 'DATABASE postgres')
	{
		is($session->query("ALTER $whose SET tegro.api_url = '$elsewhere'")->{err},
			'', "$whose is given another address");
	}
	$session->close;

	$node->append_conf('postgresql.conf', q{shared_preload_libraries = 'tegro'});
	$node->restart;
	foreach my $role (undef, 'clerk')
	{
		is(query($node, 'SHOW tegro.api_url', user => $role)->{out},
			$sandbox->api_url, 'neither is in force once it is a setting, for ' . ($role // 'the owner'));
	}
	# each session is warned of them, until they are gone; RESET of one is refused
	foreach my $whose ('ROLE clerk', 'DATABASE postgres')
	{
		like(query($node, q{SELECT status, detail, hint FROM tegro_doctor() WHERE "check" = 'configuration'})->{out},
			qr/^warning\|ALTER \Q$whose\E has set tegro\.api_url, .*no effect\.\|ALTER \Q$whose\E RESET ALL;/m, "$whose: the doctor names it");
		is(query($node, "ALTER $whose RESET tegro.api_url")->{sqlstate}, '55P02', "$whose: not by RESET of the one");
		is(query($node, "ALTER $whose RESET ALL")->{sqlstate}, '', "$whose: but by RESET ALL it can be taken away");
	}
	is(query($node, 'SELECT 1', user => 'clerk')->{err}, '', 'then nobody is warned');
	is(query($node, q{INSERT INTO sale VALUES ('1', 1, 'RUB')})->{err}, '', 'preloaded again, it takes orders');
	ok(wait_until(sub { return $sandbox->journal(method => 'createOrder', executed => 1) == 1; }),
		'and delivers them');

	$node->append_conf('postgresql.conf', q{shared_preload_libraries = ''});
	$node->restart;
	is(query($node, 'DROP EXTENSION tegro CASCADE')->{sqlstate}, '', 'without it, the extension can be dropped');
	$node->stop;
	$sandbox->stop;
};

subtest 'a server does not start with a setting that it would not take' => sub {
	my $node = bare_cluster('mistyped', 'tegro');
	my %lines = (
		'tegro.delivery = offf' => 'the value of parameter "tegro.delivery" is not valid',
		'tegro.delivry = off' => 'unrecognized configuration parameter "tegro.delivry"',
		"tegro.api_url = 'http://sandbox.staging.internal/api'" => 'the value of parameter "tegro.api_url" is not valid',
		"tegro.secret_key = 'two\tparts'" => 'the value of parameter "tegro.secret_key" is not valid');
	my $file = $node->data_dir . '/postgresql.conf';
	my $as_it_was = TegroTest::slurp($file);

	$node->stop;
	foreach my $line (sort keys %lines)
	{
		my $from = -s $node->logfile;

		$node->append_conf('postgresql.conf', $line);
		is($node->start(fail_ok => 1), 0, "$line: it does not start");
		my $log = substr(TegroTest::slurp($node->logfile), $from);
		like($log, qr/FATAL:  \Q$lines{$line}\E$/m, 'it says why');
		like($log, qr/HINT:  Correct or remove the line/, 'and what to do');
		unlike($log, qr/two\tparts/, 'a key is not shown');
		TegroTest::spew($file, $as_it_was);
	}

	# however a name is written; a reload keeps what is in force
	$node->append_conf('postgresql.conf', 'Tegro.Delivery = off');
	$node->start;
	$node->append_conf('postgresql.conf', 'tegro.delivery = offf');
	my $from = -s $node->logfile;
	$node->reload;
	ok(wait_until(sub { substr(TegroTest::slurp($node->logfile), $from) =~ /contains errors/ }), 'a reload says that there are errors');
	is($node->safe_psql('postgres', 'SHOW tegro.delivery'), 'off', 'and changes nothing');
	$node->stop;
};

# The processes of tegro, as "type database".
sub processes
{
	my ($node) = @_;

	return $node->safe_psql('postgres', <<'SQL');
SELECT concat_ws(' ', backend_type, datname) FROM pg_stat_activity WHERE backend_type LIKE 'tegro%' ORDER BY 1
SQL
}

subtest 'a server that preloads it without the extension is undisturbed' => sub {
	my $node = bare_cluster('idle', 'tegro');

	# it looks into every database at first, with a worker for a moment
	ok( wait_until(sub {
			return $node->safe_psql('postgres', q{SELECT state FROM pg_stat_activity WHERE backend_type = 'tegro launcher'}) eq 'idle';
		}),
		'the launcher is there, and idle');
	is(processes($node), 'tegro launcher', 'and nothing else of tegro');

	my $launcher = $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'tegro launcher'});
	my $session = session($node);
	is($session->query('SHOW tegro.api_url')->{out}, 'https://tegro.money/api', 'the settings are there');
	is($session->query(q{SET tegro.timeout = '5s'})->{err}, '', 'and can be set');
	is($session->query('CREATE TABLE t AS SELECT 1; DROP TABLE t')->{err}, '', 'a database without it works');
	$session->close;

	is(query($node, 'CREATE DATABASE copy TEMPLATE postgres', database => 'template1')->{err},
		'', 'a database can be copied');
	is(query($node, 'DROP DATABASE copy')->{err}, '', 'and dropped');
	reload_conf($node);
	sleep 1;
	is(processes($node), 'tegro launcher', 'no worker has come');
	is($node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'tegro launcher'}),
		$launcher, 'and the launcher is the same');
	is(remarkable($node), '', 'nothing about it is logged');

	my $log_from = -s $node->logfile;
	$node->restart;
	is(remarkable($node, $log_from), '', 'nor when the server restarts');
	$node->stop;
};

subtest 'a database without the extension, beside one that has it' => sub {
	my $sandbox = sandbox();
	my $node = cluster('beside', $sandbox);

	$node->safe_psql('postgres', 'CREATE DATABASE other');
	my $log_from = -s $node->logfile;
	is(query($node, q{SELECT tegro_enqueue('createOrder', '{"order_id": "1", "amount": 1, "currency": "RUB"}')})->{sqlstate},
		'', 'one enqueues');
	ok(wait_until(sub { return $sandbox->journal(method => 'createOrder', executed => 1) == 1; }), 'it is delivered');
	is(processes($node), "tegro delivery worker postgres\ntegro launcher", 'by a worker of that database');
	is(query($node, q{SELECT count(*) FROM pg_proc WHERE proname LIKE 'tegro%'}, database => 'other')->{out},
		'0', 'the other has none of the functions');
	is(query($node, q{LOAD 'tegro'}, database => 'other')->{err}, '', 'although the library is loaded');
	is(query($node, 'DROP DATABASE other')->{err}, '', 'it can be dropped');
	is(remarkable($node, $log_from), '', 'nothing about it is logged');
	$node->stop;
	$sandbox->stop;
};

done_testing();
