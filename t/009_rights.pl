# 009_rights.pl: only the extension's own code runs when its tables change, and
# nobody but the owner has a right that nobody granted.
#
# A role "app" gets what GRANT ALL ON ALL TABLES gives it, and puts a trigger on
# each table, and a foreign key that deletes or changes rows.  What its trigger
# function finds is whether it runs with the rights of a superuser; if it does,
# it makes its owner one.  The stories of rules, policies, child tables and
# forced row security need the owner of the tables: a mistake, or another
# extension.
#
# Each story has a database of its own.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use Digest::MD5 qw(md5_hex);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use TegroTest;

use constant TABLES => qw(tegro_outbox tegro_event tegro_origin tegro_key tegro_notification tegro_payment_callback);

my $sandbox = sandbox();
my $node = cluster('rights', $sandbox, conf => <<'END');
max_worker_processes = 20
tegro.timeout = '5s'
END
my $owner = session($node);
$owner->query('CREATE ROLE app LOGIN; CREATE ROLE order_taker LOGIN; CREATE ROLE stranger LOGIN');
$owner->close;

# Runs a story in a database of its own; TEGRO_ONLY, a pattern, chooses.
my $database;

sub story
{
	my ($name, $code) = @_;

	return if defined $ENV{TEGRO_ONLY} && $name !~ /$ENV{TEGRO_ONLY}/;
	$database = 'story_' . substr($name =~ s/\W+/_/gr, 0, 40);
	$node->safe_psql('postgres', qq{CREATE DATABASE "$database"});
	$owner = session($node, database => $database);
	subtest($name, $code);
	$owner->close;
	$node->safe_psql('postgres', qq{DROP DATABASE "$database" WITH (FORCE)});
	return;
}

sub as
{
	my ($role, $sql) = @_;

	return query($node, $sql, database => $database, user => $role);
}

sub becomes_true
{
	my ($query, $patience) = @_;

	return wait_until(
		sub {
			return 1 if $owner->query($query)->{out} eq 't';
			sleep 0.05;
			return 0;
		},
		$patience // 20);
}

# How often a request was executed.
sub executions
{
	my ($reference) = @_;

	return scalar grep { ($_->{params}{order_id} // $_->{params}{payment_id}) eq $reference }
	  $sandbox->journal(executed => 1);
}

sub log_since
{
	my ($mark) = @_;

	return substr(slurp_file($node->logfile), $mark);
}

sub pid_of
{
	my ($type) = @_;

	return $owner->query("SELECT string_agg(pid::text, ' ') FROM pg_stat_activity
		WHERE backend_type = 'tegro $type worker' AND datname = current_database()")->{out};
}

# The extension, a role with every right on its tables, and a trigger function
# of that role.
sub set_up
{
	$owner->query($_) foreach split(/;\n/, <<'END');
CREATE EXTENSION tegro;
CREATE SCHEMA app AUTHORIZATION app;
GRANT ALL ON ALL TABLES IN SCHEMA public TO app;
GRANT EXECUTE ON FUNCTION tegro_enqueue(text, jsonb, regprocedure, timestamptz) TO app, order_taker;
CREATE TABLE app.proof (who text);
GRANT INSERT ON app.proof TO PUBLIC;
ALTER TABLE app.proof OWNER TO app;
CREATE FUNCTION app.own() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO app.proof SELECT current_user; IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN ALTER ROLE app SUPERUSER; END IF; RETURN NULL; END $$;
ALTER FUNCTION app.own() OWNER TO app
END
	return;
}

sub enqueue_as
{
	my ($role, $reference) = @_;

	return as($role, qq{SELECT tegro_enqueue('createOrder', '{"order_id": "$reference", "currency": "RUB", "amount": 1}')});
}

# Did the function of "app" run for anybody but "app"?
sub nobody_else_ran_it
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($owner->query(q{SELECT string_agg(DISTINCT who, ' ') FROM app.proof WHERE who <> 'app'})->{out}, '',
		'its function never ran as anybody else');
	is($owner->query(q{SELECT rolsuper FROM pg_roles WHERE rolname = 'app'})->{out}, 'f', 'and the role is no superuser');
	$owner->query('ALTER ROLE app NOSUPERUSER');
	return;
}

# A form with its signature, as a query's text.
sub form
{
	my %fields = (amount => '1.00', currency => 'RUB', order_id => 'noted', payment_system => 10, shop_id => SHOP_ID, status => 1);
	my $text = join('&', map { "$_=$fields{$_}" } sort keys %fields);

	return "$text&sign=" . md5_hex($text . SECRET_KEY);
}

story(
	'fault 91: a trigger on any table stops everything that writes' => sub {
		set_up();
		my $later = $owner->query(q{SELECT tegro_enqueue('createOrder',
			'{"order_id": "later", "currency": "RUB", "amount": 1}', deliver_after => now() + interval '1 day')})->{out};
		my $form = form();
		my %writes = (
			'tegro_enqueue' => q{SELECT tegro_enqueue('createOrder', '{"order_id": "new", "currency": "RUB", "amount": 1}')},
			'a trigger of the outbox' => 'INSERT INTO shop_orders VALUES (1)',
			'tegro_create_withdrawal' => q{SELECT tegro_create_withdrawal('{"payment_id": "new", "currency": "RUB",
				"amount": 1, "account": "4111"}')},
			'tegro_notify' => "SELECT tegro_notify('$form')",
			'tegro_on_payment' => q{SELECT tegro_on_payment('paid'::regproc)},
			'tegro_cancel' => "SELECT tegro_cancel($later)",
			'tegro_refresh' => "SELECT tegro_refresh($later)",
			'tegro_resolve' => "SELECT tegro_resolve($later, 'accepted', 'by telephone')",
			'tegro_retry_notification' => 'SELECT tegro_retry_notification(1)',
			'tegro_take_over' => q{SELECT tegro_take_over('why not')},
			'tegro_deliver' => 'CALL tegro_deliver()');

		$owner->query($_) foreach split(/;\n/, <<'END');
CREATE FUNCTION paid(id bigint, state text, reference text, answer jsonb) RETURNS void BEGIN ATOMIC SELECT 1; END;
CREATE TABLE shop_orders (id int);
CREATE TRIGGER pay AFTER INSERT ON shop_orders FOR EACH ROW
	EXECUTE FUNCTION tegro_create_order_trigger('{"order_id": "$id", "currency": "RUB", "amount": 1}')
END
		foreach my $table (TABLES)
		{
			is(as('app', "CREATE TRIGGER \"a trigger\" AFTER INSERT OR UPDATE OR DELETE ON $table FOR EACH STATEMENT
				EXECUTE FUNCTION app.own()")->{sqlstate}, '', "a role puts a trigger on $table");
			foreach my $name (sort keys %writes)
			{
				my $result = $owner->query($writes{$name});

				is("$result->{sqlstate} $result->{message}", qq{TG006 trigger "a trigger" on table "$table" is not the extension's own},
					"$name fails");
			}
			my $result = enqueue_as('app', 'own');
			is($result->{sqlstate}, 'TG006', 'so it does for the role itself');
			like($result->{hint}, qr/DROP TRIGGER "a trigger" ON public\.$table;$/, 'the hint has the command');
			is($owner->query($result->{hint} =~ s/^.*?: //r)->{sqlstate}, '', 'which works');
		}
		is($owner->query('SELECT count(*) FROM tegro_outbox')->{out}, 1, 'nothing was recorded');
		is($owner->query('SELECT count(*) FROM tegro_notification')->{out}, 0, 'nor noted');
		is($owner->query("SELECT tegro_refresh($later)")->{sqlstate}, '', 'without triggers it goes on');
		ok(becomes_true("SELECT state = 'accepted' FROM tegro_outbox WHERE id = $later"), 'and is delivered');
		nobody_else_ran_it();
	});

story(
	'fault 91: triggers that appear within a transaction' => sub {
		set_up();
		my $app = session($node, database => $database, user => 'app');

		$app->query('BEGIN');
		$app->query(q{SELECT tegro_enqueue('createOrder', '{"order_id": "first", "currency": "RUB", "amount": 1}')});
		$app->query('CREATE TRIGGER t AFTER INSERT ON tegro_outbox FOR EACH STATEMENT EXECUTE FUNCTION app.own()');
		is($app->query(q{SELECT tegro_enqueue('createOrder', '{"order_id": "second", "currency": "RUB", "amount": 1}')})->{sqlstate},
			'TG006', 'the same transaction creates it between two requests');
		$app->query('ROLLBACK');
		is(enqueue_as('order_taker', 'third')->{sqlstate}, '', 'rolled back, it is gone');

		# nobody can create one between the check and the end of the transaction
		my $taker = session($node, database => $database, user => 'order_taker');
		$taker->query('BEGIN');
		$taker->query(q{SELECT tegro_enqueue('createOrder', '{"order_id": "fourth", "currency": "RUB", "amount": 1}')});
		$app->send('CREATE TRIGGER t AFTER INSERT ON tegro_outbox FOR EACH STATEMENT EXECUTE FUNCTION app.own()');
		ok(becomes_true("SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = " . $app->pid),
			'another session waits to create one');
		is($taker->query(q{SELECT tegro_enqueue('createOrder', '{"order_id": "fifth", "currency": "RUB", "amount": 1}')})->{sqlstate},
			'', 'while the transaction goes on');
		$taker->query('COMMIT');
		is($app->wait->{sqlstate}, '', 'after its commit there is a trigger');
		is($taker->query(q{SELECT tegro_enqueue('createOrder', '{"order_id": "sixth", "currency": "RUB", "amount": 1}')})->{sqlstate},
			'TG006', 'and the next request fails');
		$owner->query('DROP TRIGGER t ON tegro_outbox');
		ok(becomes_true(q{SELECT count(*) = 3 FROM tegro_outbox WHERE state = 'accepted'}), 'the others are delivered');
		nobody_else_ran_it();
		$_->close foreach $app, $taker;
	});

story(
	'fault 91: rules, policies, foreign keys, child tables' => sub {
		set_up();
		$owner->query('GRANT CREATE ON SCHEMA app TO app');
		my @outbox_own = ('tegro_outbox', q{pg_catalog.pg_has_role(enqueued_by, 'MEMBER') AND
			pg_catalog.pg_get_userbyid(enqueued_by)::pg_catalog.text OPERATOR(pg_catalog.=) enqueued_by_name});

		# what, whoever can do it, the message, what else has to go afterwards
		foreach my $case (
			[ 'a rule', 'postgres', 'CREATE RULE "r r" AS ON UPDATE TO tegro_origin DO ALSO NOTIFY x',
				'rule "r r" on table "tegro_origin" is not the extension\'s own' ],
			[ 'a rule that replaces', 'postgres', 'CREATE RULE r AS ON INSERT TO tegro_outbox DO INSTEAD NOTHING',
				'rule "r" on table "tegro_outbox" is not the extension\'s own' ],
			[ 'a policy', 'postgres', 'CREATE POLICY more ON tegro_notification USING (true)',
				'policy "more" on table "tegro_notification" is not the extension\'s own' ],
			[ 'a policy where there was none', 'postgres',
				'ALTER TABLE tegro_origin ENABLE ROW LEVEL SECURITY; CREATE POLICY tegro_outbox_own ON tegro_origin FOR SELECT USING (true)',
				'policy "tegro_outbox_own" on table "tegro_origin" is not the extension\'s own' ],
			[ 'a policy that was altered', 'postgres', 'ALTER POLICY tegro_outbox_own ON tegro_outbox USING (true)',
				'policy "tegro_outbox_own" on table "tegro_outbox" was altered' ],
			[ 'a policy for one role', 'postgres', 'ALTER POLICY tegro_payment_callback_own ON tegro_payment_callback TO app',
				'policy "tegro_payment_callback_own" on table "tegro_payment_callback" was altered' ],
			[ 'a policy that was replaced', 'postgres',
				'DROP POLICY tegro_notification_own ON tegro_notification; CREATE POLICY tegro_notification_own ON tegro_notification
					USING (pg_catalog.pg_has_role(role, \'MEMBER\'))',
				'policy "tegro_notification_own" on table "tegro_notification" was altered' ],
			[ 'a policy with a subquery that was altered', 'postgres',
				'ALTER POLICY tegro_event_own ON tegro_event USING (EXISTS (SELECT FROM tegro_outbox o WHERE o.id <= outbox_id))',
				'policy "tegro_event_own" on table "tegro_event" was altered' ],
			[ 'ON DELETE CASCADE', 'app', 'CREATE TABLE app.child (id bigint REFERENCES tegro_outbox ON DELETE CASCADE)',
				'foreign key "child_id_fkey" of table app.child acts on changes of table "tegro_outbox"', 'DROP TABLE app.child' ],
			[ 'ON UPDATE CASCADE', 'app', 'CREATE TABLE app.child (id bigint REFERENCES tegro_notification ON UPDATE CASCADE)',
				'foreign key "child_id_fkey" of table app.child acts on changes of table "tegro_notification"', 'DROP TABLE app.child' ],
			[ 'ON DELETE SET NULL', 'app', 'CREATE TABLE app.child (id bool REFERENCES tegro_origin ON DELETE SET NULL)',
				'foreign key "child_id_fkey" of table app.child acts on changes of table "tegro_origin"', 'DROP TABLE app.child' ],
			[ 'ON UPDATE SET DEFAULT', 'app', 'CREATE TABLE app.child (id text REFERENCES tegro_payment_callback ON UPDATE SET DEFAULT)',
				'foreign key "child_id_fkey" of table app.child acts on changes of table "tegro_payment_callback"', 'DROP TABLE app.child' ],
			[ 'a plain key to the table that loses rows', 'app', 'CREATE TABLE app.child (id text REFERENCES tegro_payment_callback)',
				'foreign key "child_id_fkey" of table app.child acts on changes of table "tegro_payment_callback"', 'DROP TABLE app.child' ],
			[ 'a table that deletes requests', 'postgres',
				'CREATE TABLE app.parent (id text PRIMARY KEY); ALTER TABLE tegro_event ADD CONSTRAINT away
					FOREIGN KEY (outcome) REFERENCES app.parent ON DELETE CASCADE NOT VALID',
				'foreign key "away" of table public.tegro_event acts on changes of table "tegro_event"', 'DROP TABLE app.parent' ],
			[ 'a child table', 'postgres', 'CREATE TABLE app.kid () INHERITS (tegro_event)',
				'table "tegro_event" has child table "kid"', 'DROP TABLE app.kid' ],
			[ 'row security that is forced', 'postgres', 'ALTER TABLE tegro_outbox FORCE ROW LEVEL SECURITY',
				'row security of table "tegro_outbox" applies to its owner' ])
		{
			my ($name, $role, $create, $message, $after) = @$case;

			is(as($role, $create)->{sqlstate}, '', $name);
			my $result = enqueue_as('order_taker', $name);
			is("$result->{sqlstate} $result->{message}", "TG006 $message", '... stops tegro_enqueue');
			is($owner->query($result->{hint} =~ s/^.*?: //r)->{sqlstate}, '', '... the command of the hint')
			  or diag($result->{hint});
			is(enqueue_as('order_taker', $name)->{sqlstate}, '', '... ends that');
			$owner->query($after) if $after;
		}

		# what stops nothing
		foreach my $case (
			[ 'a plain foreign key', 'app', 'CREATE TABLE app.plain (id bigint REFERENCES tegro_outbox)' ],
			[ 'ON DELETE RESTRICT', 'app', 'CREATE TABLE app.strict (id bigint REFERENCES tegro_notification
				ON DELETE RESTRICT ON UPDATE RESTRICT DEFERRABLE)' ],
			[ 'policies that were created anew from the catalog', 'postgres',
				q{DO $$ DECLARE p record; BEGIN
					FOR p IN SELECT * FROM pg_policies WHERE policyname ~ '^tegro' LOOP
						EXECUTE format('DROP POLICY %I ON %I.%I', p.policyname, p.schemaname, p.tablename);
						EXECUTE format('CREATE POLICY %I ON %I.%I FOR SELECT USING (%s)', p.policyname, p.schemaname, p.tablename, p.qual);
					END LOOP; END $$} ],
			[ 'a column more', 'postgres', 'ALTER TABLE tegro_outbox ADD more text; ALTER TABLE tegro_outbox DROP more' ],
			[ 'a column that was renamed', 'postgres', 'ALTER TABLE tegro_outbox RENAME message TO words' ],
			[ '... and back', 'postgres', 'ALTER TABLE tegro_outbox RENAME words TO message' ],
			[ 'a child table that is gone', 'postgres', 'CREATE TABLE app.kid () INHERITS (tegro_outbox); DROP TABLE app.kid' ],
			[ 'row security that is off', 'postgres', 'ALTER TABLE tegro_outbox DISABLE ROW LEVEL SECURITY' ],
			[ 'a policy that is gone', 'postgres', 'ALTER TABLE tegro_outbox ENABLE ROW LEVEL SECURITY; DROP POLICY tegro_outbox_own ON tegro_outbox' ])
		{
			my ($name, $role, $create) = @$case;

			is(as($role, $create)->{sqlstate}, '', $name);
			is(enqueue_as('order_taker', "beside $name")->{sqlstate}, '', '... stops nothing');
		}
		ok(becomes_true(q{SELECT count(*) = 0 FROM tegro_outbox WHERE state <> 'accepted'}), 'all that was enqueued is delivered');
		nobody_else_ran_it();
	});

story(
	'fault 91: a worker waits for the end of a trigger' => sub {
		set_up();
		$owner->query($_) foreach split(/;\n/, <<'END');
CREATE TABLE calls (reference text);
CREATE FUNCTION called(id bigint, state text, reference text, answer jsonb) RETURNS void
BEGIN ATOMIC INSERT INTO calls VALUES (reference); END
END
		my $mark = -s $node->logfile;
		my $ask = sub {
			my ($reference) = @_;

			return $owner->query(qq{SELECT tegro_enqueue('createOrder', '{"order_id": "$reference", "currency": "RUB", "amount": 1}', 'called'::regproc)});
		};

		# an answer comes while there is a trigger
		$sandbox->fault('createOrder', 'execute_then_hold', ms => 1000);
		$ask->('flying');
		ok(becomes_true(q{SELECT state = 'sending' FROM tegro_outbox WHERE reference = 'flying'}), 'a request is on its way');
		my $pid = pid_of('delivery');
		is(as('app', 'CREATE TRIGGER t AFTER UPDATE ON tegro_outbox FOR EACH STATEMENT EXECUTE FUNCTION app.own()')->{sqlstate}, '',
			'when a trigger appears');
		# a worker that has ended has used none
		my $cpu = sub { return (split(/ /, (eval { slurp_file("/proc/$pid/stat") } // '') =~ s/^.*\) //r))[11] // 0 };
		sleep 2;
		my $before = $cpu->();
		sleep 3;
		cmp_ok($cpu->() - $before, '<', 30, 'the worker does not spin');
		is(pid_of('delivery'), $pid, 'and does not end');
		is($owner->query(q{SELECT state FROM tegro_outbox WHERE reference = 'flying'})->{out}, 'sending', 'it writes nothing');
		my @logged = log_since($mark) =~ /WARNING:  (?:TG006: )?(delivery of the tegro outbox waits: .*)/g;
		is("@logged", q{delivery of the tegro outbox waits: trigger "t" on table "tegro_outbox" is not the extension's own},
			'the log says so once');
		$owner->query('DROP TRIGGER t ON tegro_outbox');
		my $from = time;
		ok(becomes_true(q{SELECT state = 'accepted' FROM tegro_outbox WHERE reference = 'flying'}), 'without the trigger');
		cmp_ok(time - $from, '<', 3, 'the answer is written at once');
		is($owner->query(q{SELECT string_agg(outcome, ' ') FROM tegro_event})->{out}, 'answered', 'it was not lost');
		ok(becomes_true(q{SELECT count(*) = 1 FROM calls}), 'and it is called back');
		is(executions('flying'), 1, 'it was sent once');

		# nothing is sent while there is one, and a worker that starts waits as well
		$owner->query('ALTER SYSTEM SET tegro.delivery = off');
		$owner->query('SELECT pg_reload_conf()');
		ok(becomes_true(q{SELECT current_setting('tegro.delivery') = 'off'}), 'delivery is off');
		$ask->('waiting');
		as('app', 'CREATE TRIGGER t BEFORE INSERT ON tegro_event FOR EACH STATEMENT EXECUTE FUNCTION app.own()');
		$owner->query('ALTER SYSTEM RESET tegro.delivery');
		$owner->query('SELECT pg_reload_conf()');
		$owner->query("SELECT pg_terminate_backend($pid, 5000)");
		ok(becomes_true(q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'tegro delivery worker'
			AND datname = current_database()}), 'a worker starts again');
		$pid = pid_of('delivery');
		sleep 7;
		is(pid_of('delivery'), $pid, 'and stays');
		is($owner->query(q{SELECT state FROM tegro_outbox WHERE reference = 'waiting'})->{out}, 'ready', 'it sends nothing');
		is(executions('waiting'), 0, 'indeed');
		$owner->query('DROP TRIGGER t ON tegro_event');
		$from = time;
		ok(becomes_true(q{SELECT state = 'accepted' FROM tegro_outbox WHERE reference = 'waiting'}), 'without the trigger it does');
		cmp_ok(time - $from, '<', 3, 'at once');
		ok(becomes_true(q{SELECT count(*) = 2 FROM calls}), 'and it is called back');

		# callbacks
		$owner->query(q{CREATE FUNCTION failing(id bigint, state text, reference text, answer jsonb) RETURNS void
			LANGUAGE plpgsql AS 'BEGIN RAISE ''not yet''; END'});
		$owner->query(q{SELECT tegro_enqueue('createOrder', '{"order_id": "calling", "currency": "RUB", "amount": 1}', 'failing'::regproc)});
		ok(becomes_true(q{SELECT callback_message ~ 'not yet' FROM tegro_outbox WHERE reference = 'calling'}), 'a callback fails');
		$mark = -s $node->logfile;
		as('app', 'CREATE TRIGGER t AFTER UPDATE ON tegro_origin FOR EACH STATEMENT EXECUTE FUNCTION app.own()');
		$owner->query(q{CREATE OR REPLACE FUNCTION failing(id bigint, state text, reference text, answer jsonb) RETURNS void
			LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.calls VALUES (reference); END'});
		$pid = pid_of('callback');
		$owner->query(q{UPDATE tegro_outbox SET callback_at = now() WHERE reference = 'calling'});
		ok(wait_until(sub { sleep 0.1; return log_since($mark) =~ /calling back of the tegro outbox waits: trigger "t"/; }),
			'a callback waits for the end of a trigger, too');
		sleep 1;
		is(pid_of('callback'), $pid, 'the worker stays');
		is($owner->query('SELECT count(*) FROM calls')->{out}, 2, 'and does not call');
		$owner->query('DROP TRIGGER t ON tegro_origin');
		ok(becomes_true(q{SELECT callback_state = 'done' FROM tegro_outbox WHERE reference = 'calling'}, 10), 'without the trigger it does');
		is($owner->query(q{SELECT count(*) FROM calls WHERE reference = 'calling'})->{out}, 1, 'once');
		nobody_else_ran_it();
	});

story(
	'fault 91: a payout at once' => sub {
		set_up();
		my $payer = session($node, database => $database);
		my $pay = sub {
			my ($reference) = @_;

			return qq{SELECT tegro_create_withdrawal('{"payment_id": "$reference", "currency": "RUB", "amount": 1, "account": "4111"}')};
		};

		as('app', 'CREATE TRIGGER t AFTER INSERT ON tegro_outbox FOR EACH STATEMENT EXECUTE FUNCTION app.own()');
		is($payer->query($pay->('before'))->{sqlstate}, 'TG006', 'is refused where there is a trigger');
		is(executions('before'), 0, 'and not sent');
		$owner->query('DROP TRIGGER t ON tegro_outbox');

		$sandbox->fault('createWithdrawal', 'execute_then_hold', ms => 1000);
		$payer->send($pay->('after'));
		ok(becomes_true(q{SELECT state = 'sending' FROM tegro_outbox WHERE reference = 'after'}), 'another one is on its way');
		as('app', 'CREATE TRIGGER t AFTER UPDATE ON tegro_outbox FOR EACH STATEMENT EXECUTE FUNCTION app.own()');
		is($payer->wait->{sqlstate}, 'TG003', 'when a trigger appears: its outcome is unknown, not "not sent"');
		is(executions('after'), 1, 'it was executed');
		$owner->query('DROP TRIGGER t ON tegro_outbox');
		$owner->query(q{UPDATE tegro_outbox SET claimed_until = now() WHERE reference = 'after'});
		is($payer->query($pay->('third'))->{sqlstate}, '', 'without the trigger others are paid');
		ok(becomes_true(q{SELECT state = 'accepted' FROM tegro_outbox WHERE reference = 'after'}), 'and it is looked up and found');
		is(executions('after'), 1, 'it was sent once');
		nobody_else_ran_it();
		$payer->close;
	});

story(
	'fault 91: retention, and tables that refer to the outbox' => sub {
		set_up();
		$owner->query($_) foreach split(/;\n/, <<'END');
GRANT CREATE ON SCHEMA app TO app;
ALTER SYSTEM SET tegro.retention = '1s'
END
		as('app', $_) foreach 'CREATE TABLE app.child (id bigint REFERENCES tegro_outbox ON DELETE CASCADE)',
		  'CREATE TRIGGER a AFTER DELETE ON app.child FOR EACH ROW EXECUTE FUNCTION app.own()', 'GRANT INSERT ON app.child TO PUBLIC';
		$owner->query('DROP TABLE app.child');
		my $id = enqueue_as('order_taker', 'old')->{out};
		ok(becomes_true("SELECT state = 'accepted' FROM tegro_outbox WHERE id = $id"), 'a request that is finished');
		as('app', $_) foreach 'CREATE TABLE app.child (id bigint REFERENCES tegro_outbox ON DELETE CASCADE)',
		  'CREATE TRIGGER a AFTER DELETE ON app.child FOR EACH ROW EXECUTE FUNCTION app.own()', "INSERT INTO app.child VALUES ($id)";
		is($owner->query('SELECT count(*) FROM app.child')->{out}, 1, 'a row refers to it, with ON DELETE CASCADE');
		my $pid = pid_of('delivery');
		my $mark = -s $node->logfile;
		sleep 1.5;
		$owner->query('SELECT pg_reload_conf()');
		ok(wait_until(sub { sleep 0.1; return log_since($mark) =~ /waits: foreign key "child_id_fkey" of table app\.child/; }),
			'retention does not strip it');
		is($owner->query('SELECT count(params) FROM tegro_outbox')->{out}, 1, 'it stays');
		is(pid_of('delivery'), $pid, 'so does the worker');
		nobody_else_ran_it();

		# One that only checks does nothing.  Where rows are deleted, the check would
		# cast by a function of the role's, whose deferred trigger would run at the
		# worker's commit.
		$owner->query('DROP TABLE app.child');
		as('app', $_) foreach 'CREATE TYPE app.number AS (n bigint)',
		  q{CREATE FUNCTION app.to_bigint(app.number) RETURNS bigint LANGUAGE plpgsql
		    AS 'BEGIN INSERT INTO app.late VALUES (1); RETURN ($1).n; END'},
		  'CREATE CAST (app.number AS bigint) WITH FUNCTION app.to_bigint(app.number) AS IMPLICIT',
		  'CREATE TABLE app.late (n int); GRANT INSERT ON app.late TO PUBLIC',
		  'CREATE CONSTRAINT TRIGGER late AFTER INSERT ON app.late DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION app.own()',
		  'CREATE TABLE app.child (id app.number)', 'INSERT INTO app.child VALUES (ROW(-1))',
		  'ALTER TABLE app.child ADD FOREIGN KEY (id) REFERENCES tegro_outbox DEFERRABLE INITIALLY DEFERRED NOT VALID';
		is($owner->query(q{SELECT count(*) FROM pg_constraint WHERE conname = 'child_id_fkey'})->{out}, 1, 'a key that casts');
		$owner->query("SELECT pg_terminate_backend($pid, 5000)");
		is(enqueue_as('order_taker', 'new')->{sqlstate}, '', 'with a foreign key that only checks');
		ok(becomes_true(q{SELECT state = 'accepted' FROM tegro_outbox WHERE reference = 'new'}), 'delivery goes on');
		ok(becomes_true("SELECT params IS NULL AND stripped_at IS NOT NULL FROM tegro_outbox WHERE id = $id"), 'so does retention');
		nobody_else_ran_it();
		is($owner->query('SELECT count(*) FROM app.late')->{out}, 0, 'nor did its cast run');
		$owner->query('DROP TABLE app.child');
		$owner->query('ALTER SYSTEM RESET tegro.retention');
		$owner->query('SELECT pg_reload_conf()');
	});

story(
	'fault 91: TRUNCATE beside a trigger of the role that truncates' => sub {
		set_up();
		as('app', 'CREATE TRIGGER t AFTER TRUNCATE ON tegro_outbox FOR EACH STATEMENT EXECUTE FUNCTION app.own()');
		# it runs before the extension's own, as itself
		is(as('app', 'TRUNCATE tegro_outbox')->{sqlstate}, 'TG006', 'a role that may cannot truncate the outbox beside a trigger of its own');
		is(enqueue_as('order_taker', 'new')->{sqlstate}, 'TG006', 'which stops what writes, as any other');
		nobody_else_ran_it();
		$owner->query('DROP TRIGGER t ON tegro_outbox');
		my $number = $owner->query('SELECT number FROM tegro_origin')->{out};
		is(as('app', 'TRUNCATE tegro_outbox')->{sqlstate}, '', 'it can without');
		isnt($owner->query('SELECT number FROM tegro_origin')->{out}, $number, 'and that draws a new number');
	});

# All that roles other than the owner may do with the extension's objects now, or
# could by what pg_dump takes for given.
use constant RIGHTS => <<'END';
WITH members AS (
	SELECT classid, objid FROM pg_depend WHERE deptype = 'e' AND refclassid = 'pg_extension'::regclass
	   AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'tegro')),
acls AS (
	SELECT 'pg_class'::regclass AS classid, oid, relowner AS owner, relacl AS acl FROM pg_class
	UNION ALL SELECT 'pg_proc'::regclass, oid, proowner, coalesce(proacl, acldefault('f', proowner)) FROM pg_proc
	-- from 17 on types of rows and arrays are members, too, with the rights of what they belong to
	UNION ALL SELECT 'pg_type'::regclass, oid, typowner, coalesce(typacl, acldefault('T', typowner)) FROM pg_type AS t
	 WHERE NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_type'::regclass AND objid = t.oid AND deptype = 'i')
	UNION ALL SELECT 'pg_foreign_data_wrapper'::regclass, oid, fdwowner, fdwacl FROM pg_foreign_data_wrapper
	UNION ALL SELECT classoid, objoid, 10, initprivs FROM pg_init_privs)
SELECT string_agg(DISTINCT format('%s %s to %s', privilege_type, pg_describe_object(m.classid, m.objid, 0),
	   CASE WHEN grantee = 0 THEN 'PUBLIC' ELSE grantee::regrole::text END), E'\n')
  FROM members AS m JOIN acls ON acls.classid = m.classid AND acls.oid = m.objid, aclexplode(acl)
 WHERE grantee <> owner
END

use constant DEFAULT_PRIVILEGES => map { "ALTER DEFAULT PRIVILEGES $_" } (
	(map { "IN SCHEMA public GRANT ALL ON $_ TO app" } qw(TABLES FUNCTIONS SEQUENCES)),
	(map { "GRANT ALL ON $_ TO app, stranger WITH GRANT OPTION" } qw(TABLES FUNCTIONS SEQUENCES TYPES)),
	(map { "GRANT ALL ON $_ TO PUBLIC" } qw(TABLES FUNCTIONS SEQUENCES TYPES)),
	'GRANT EXECUTE ON ROUTINES TO "odd ""role"');

$node->safe_psql('postgres', 'CREATE ROLE "odd ""role"');

story(
	'fault 92: default privileges give nothing' => sub {
		is($owner->query($_)->{sqlstate}, '', $_) foreach DEFAULT_PRIVILEGES;
		is($owner->query('CREATE TABLE probe (); SELECT has_table_privilege(\'stranger\', \'probe\', \'TRIGGER\')')->{out}, 't',
			'a table of the administrator is everybody\'s');
		is($owner->query('CREATE EXTENSION tegro')->{sqlstate}, '', 'the extension');
		is($owner->query(RIGHTS)->{out}, '', 'nobody else has a right on anything of it');
		is($owner->query(qq{SELECT has_function_privilege('app', 'tegro_create_withdrawal(jsonb)', 'EXECUTE')})->{out}, 'f',
			'a role cannot pay out');
		is(as('app', q{SELECT tegro_create_withdrawal('{"payment_id": "stolen", "currency": "RUB", "amount": 1, "account": "4"}')})
			->{sqlstate}, '42501', 'indeed');
		is(as('app', q{UPDATE tegro_origin SET number = 'x'})->{sqlstate}, '42501', 'nor change a table');
		is(as('app', 'CREATE TRIGGER t AFTER INSERT ON tegro_outbox FOR EACH STATEMENT EXECUTE FUNCTION suppress_redundant_updates_trigger()')
			->{sqlstate}, '42501', 'nor put a trigger on one');
	});

story(
	'fault 92: a dump and its restore give what was granted' => sub {
		my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump.sql';

		$owner->query($_) foreach DEFAULT_PRIVILEGES, 'CREATE EXTENSION tegro',
		  'GRANT SELECT ON tegro_outbox TO app',
		  'GRANT EXECUTE ON FUNCTION tegro_enqueue(text, jsonb, regprocedure, timestamptz) TO app';
		my $rights = $owner->query(RIGHTS)->{out};
		like($rights, qr/^EXECUTE function tegro_enqueue\(.*\) to app\nSELECT table tegro_outbox to app$/, 'two grants');
		$node->command_ok([ 'pg_dump', '-f', $dump, $node->connstr($database) ], 'a dump');
		$node->safe_psql('postgres', 'CREATE DATABASE restored');
		my $restored = session($node, database => 'restored');
		is($restored->query($_)->{sqlstate}, '', 'in the target as well') foreach DEFAULT_PRIVILEGES;
		$node->command_ok([ 'psql', '-X', '-v', 'ON_ERROR_STOP=1', '-f', $dump, $node->connstr('restored') ], 'a restore');
		is($restored->query(RIGHTS)->{out}, $rights, 'gives these two');
		$restored->close;
		$node->safe_psql('postgres', 'DROP DATABASE restored');
	});

$node->stop;
done_testing();
