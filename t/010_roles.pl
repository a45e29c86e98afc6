# 010_roles.pl: roles beside each other, and roles that are gone.
#
# Several roles share an outbox.  None learns of another's requests by enqueuing,
# none is held up by another's key, and none pays out once its right is gone.  What
# is wrong with a request is found before it uses its reference.
#
# The credentials file is written anew in the course of the test.  The journal
# of the sandbox tells what was sent.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use TegroTest;
use TegroOutbox;

# A moment that no test reaches.
use constant LATER => '2100-01-01';

# Rows that wait for a key.
use constant BACKLOG => 20_000;

# Shops that do not exist.
use constant SHOPS => 20_000;

my $credentials = PostgreSQL::Test::Utils::tempdir() . '/credentials';

# Anyone's key is good; for the shop "own" there are keys of single roles only.
my $anyone = join(':', SHOP_ID, '*', API_KEY, SECRET_KEY);
my @own = map { "own:$_:" . API_KEY . ':own-secret' } qw(leaver leaver2 leaver3 app);
write_credentials();

my $sandbox = sandbox(arguments => [ '--shop', 'own:' . API_KEY . ':own-secret' ]);
my $node = cluster('roles', $sandbox, conf => <<"END");
tegro.credentials_file = '$credentials'
tegro.review_after = '2s'
tegro.timeout = '2s'
tegro.worker_idle_timeout = '1h'
max_prepared_transactions = 2
END
my $admin = session($node);

my $functions = 'tegro_enqueue(text, jsonb, regprocedure, timestamptz), tegro_wait(bigint, interval), '
  . 'tegro_cancel(bigint), tegro_retry(bigint), tegro_refresh(bigint), tegro_call(text, jsonb), tegro_create_order(jsonb)';
my %session;

# Makes a role with a session of its own.
sub role
{
	my ($name, %options) = @_;

	do_as('postgres', "CREATE ROLE $name LOGIN");
	do_as('postgres', "GRANT EXECUTE ON FUNCTION $functions TO $name");
	do_as('postgres', "GRANT SELECT ON tegro_outbox TO $name");
	do_as('postgres', "GRANT EXECUTE ON FUNCTION tegro_create_withdrawal(jsonb) TO $name") if $options{pays};
	$session{$name} = session($node, user => $name);
	return;
}

# Drops a role, whose session is over then.
sub drop_role
{
	my ($name) = @_;

	(delete $session{$name})->close;
	do_as('postgres', "DROP OWNED BY $name; DROP ROLE $name");
	return;
}

sub as
{
	my ($name, $sql) = @_;

	return ($name eq 'postgres' ? $admin : $session{$name})->query($sql);
}

# The same for what must not fail; returns what was printed.
sub do_as
{
	my ($name, $sql) = @_;
	my $result = as($name, $sql);

	die "$name: $sql: $result->{err}" if $result->{err} =~ /ERROR|FATAL/;
	return $result->{out};
}

# An error as a client sees it, without the place in the source code.
sub error_of
{
	my ($name, $sql) = @_;
	my $error = as($name, $sql)->{err};

	$error =~ s/^(?:LOCATION|CONTEXT):.*\n?//mg;
	return $error;
}

sub write_credentials
{
	my (@first) = @_;

	spew($credentials, join("\n", @first, $anyone, @own) . "\n", 0600);
	return;
}

sub order
{
	my ($reference, %more) = @_;

	return enqueue_arguments('createOrder', $reference, %more);
}

sub payout
{
	my ($reference, %more) = @_;

	return enqueue_arguments('createWithdrawal', $reference, %more);
}

sub enqueue_as
{
	my ($name, $arguments, $more) = @_;

	return do_as($name, "SELECT tegro_enqueue($arguments" . ($more ? ", $more" : '') . ')');
}

# Requests that came to the sandbox and name a reference as their own.
sub sends
{
	my ($reference) = @_;

	return grep {
		$_->{method} =~ /^create/
		  && grep { ($_ // '') eq $reference } @{ $_->{params} }{qw(order_id payment_id)}
	} $sandbox->journal;
}

sub state_becomes
{
	my ($reference, $state, $name) = @_;

	is(wait_for_row($node, $reference, $state)->{state}, $state, $name);
	return;
}

role('thief', pays => 1);
role('app', pays => 1);
role('boss', pays => 1);
role('order_taker');
do_as('postgres', 'GRANT thief TO boss');


#
# 101: references
#

subtest 'fault 101: a reference that another role has used' => sub {
	my $id = enqueue_as('thief', order('o1'), 'deliver_after => ' . q{'} . LATER . q{'});
	my $paid = enqueue_as('thief', payout('p1', account => '4100secret'), 'deliver_after => ' . q{'} . LATER . q{'});

	my $taken_by_order = error_of('app', 'SELECT tegro_enqueue(' . order('o1') . ')');
	like($taken_by_order, qr/TG007: order_id "o1" of shop "\S+" has been used/, 'is TG007');
	like($taken_by_order, qr/^DETAIL:  Another role has used it for createOrder\.$/m, 'which says that another role has used it');
	unlike($taken_by_order, qr/\b$id\b|ready|thief/, 'and neither its number nor its state nor the role');
	is(error_of('app', 'SELECT tegro_enqueue(' . order('o1', amount => 11) . ')'),
		$taken_by_order, 'the same with other parameters');

	my $taken_by_payout = error_of('app', 'SELECT tegro_enqueue(' . payout('p1', account => '4100secret') . ')');
	like($taken_by_payout, qr/TG007: payment_id "p1".*has been used/, 'a payout is TG007');
	is(error_of('app', 'SELECT tegro_enqueue(' . payout('p1', account => '4100secreu') . ')'),
		$taken_by_payout, 'whether the account was guessed or not');
	foreach my $call ('tegro_create_withdrawal(%s)', q{tegro_call('createWithdrawal', %s)})
	{
		foreach my $account (qw(4100secret 4100secreu))
		{
			my ($params) = payout('p1', account => $account) =~ /, (.*)/s;

			is(error_of('app', 'SELECT ' . sprintf($call, $params)), $taken_by_payout, "so is $call");
		}
	}

	# of what has ended, no state is told either
	do_as('thief', "SELECT tegro_cancel($paid)");
	is(error_of('app', 'SELECT tegro_enqueue(' . payout('p1', account => '4100secret') . ')'),
		$taken_by_payout, 'one that was cancelled is the same');

	# triggers enqueue for the table's owner
	do_as('postgres', 'CREATE SCHEMA shop AUTHORIZATION app; GRANT USAGE, CREATE ON SCHEMA shop TO thief;
		GRANT EXECUTE ON FUNCTION tegro_create_order_trigger(), tegro_create_withdrawal_trigger() TO app, order_taker');
	do_as('app', q{CREATE TABLE shop.orders (number text, total int, currency text DEFAULT 'RUB');
		CREATE TRIGGER ask AFTER INSERT ON shop.orders FOR EACH ROW EXECUTE FUNCTION tegro_create_order_trigger(
			'{"order_id": "$number", "amount": "$total", "currency": "$currency"}')});
	is(error_of('app', qq{INSERT INTO shop.orders VALUES ('o1', $_)}), $taken_by_order, "a trigger, amount $_")
	  foreach 10, 11;

	# whoever fires a trigger learns no more of the owner's request than that
	do_as('app', 'GRANT INSERT ON shop.orders TO order_taker; GRANT USAGE ON SCHEMA shop TO order_taker');
	enqueue_as('app', order('o2'), 'deliver_after => ' . q{'} . LATER . q{'});
	my $fired = error_of('order_taker', q{INSERT INTO shop.orders VALUES ('o2', 11)});
	like($fired, qr/TG007: order_id "o2"/, 'a trigger that is fired by another role');
	unlike($fired, qr/amount|Request \d/, 'tells nothing of the request');

	# members
	is(enqueue_as('boss', order('o1')), $id, 'a member of the role finds the request');
	like(error_of('boss', 'SELECT tegro_enqueue(' . order('o1', amount => 11) . ')'),
		qr/TG007: .*is another request\nDETAIL:  Request $id of the outbox has the same order_id and a different "amount"\./,
		'and learns which parameter differs');
	is(enqueue_as('postgres', order('o1')), $id, 'so does a superuser');
};

subtest 'fault 101: a role that has been dropped' => sub {
	role('guest');
	my $id = enqueue_as('guest', order('o3'), 'deliver_after => ' . q{'} . LATER . q{'});

	drop_role('guest');
	like(error_of('app', 'SELECT tegro_enqueue(' . order('o3') . ')'),
		qr/TG007: .*has been used\nDETAIL:  Another role/, 'its reference is another role\'s');
	is(enqueue_as('postgres', order('o3')), $id, 'but for a superuser');
};

subtest 'fault 101: a callback that will not be called' => sub {
	do_as('app', 'CREATE FUNCTION shop.one(id bigint, state text, reference text, answer jsonb) RETURNS void
			LANGUAGE sql AS $$SELECT$$;
		CREATE FUNCTION shop.two(id bigint, state text, reference text, answer jsonb) RETURNS void
			LANGUAGE sql AS $$SELECT$$');
	my $one = q{'shop.one(bigint, text, text, jsonb)'};
	my $two = q{'shop.two(bigint, text, text, jsonb)'};
	my $later = ', deliver_after => ' . q{'} . LATER . q{'};
	my $warnings_of = sub {
		my ($reference, $more) = @_;

		return as('app', 'SELECT tegro_enqueue(' . order($reference) . "$more)")->{err};
	};

	is($warnings_of->('o4', ", $one$later"), '', 'a request with a callback');
	is($warnings_of->('o4', ", $one"), '', 'again');
	is($warnings_of->('o4', ''), '', 'again without one, which loses nothing');
	like($warnings_of->('o4', ", $two"),
		qr/WARNING:.*does not call shop\.two\(.*\nDETAIL:  It was enqueued with the callback shop\.one\(/,
		'with another, which is not called');
	is($warnings_of->('o5', $later), '', 'a request without a callback');
	like($warnings_of->('o5', ", $two"),
		qr/WARNING:.*does not call shop\.two\(.*\nDETAIL:  It was enqueued without a callback/,
		'and again with one');
};

subtest 'fault 101: a transaction of another role that is prepared' => sub {
	do_as('thief', 'BEGIN; SELECT tegro_enqueue(' . order('o6') . q{); PREPARE TRANSACTION 'thief'});
	my $begun = time;

	like(as('app', q{SET statement_timeout = '500ms'; SELECT tegro_enqueue(} . order('o6') . ')')->{err},
		qr/57014/, 'is waited for until statement_timeout');
	cmp_ok(time - $begun, '>', 0.4, 'and so long');
	do_as('app', 'RESET statement_timeout');
	do_as('thief', q{COMMIT PREPARED 'thief'});
	like(error_of('app', 'SELECT tegro_enqueue(' . order('o6') . ')'),
		qr/TG007: .*has been used\nDETAIL:  Another role/, 'once it is committed, the reference is taken');
};


#
# 100: payers that are gone, or have lost the right
#

subtest 'fault 100: the right to pay out is revoked' => sub {
	role('payer', pays => 1);
	my $soon = q{deliver_after => clock_timestamp() + interval '1 s'};
	my $id = enqueue_as('payer', payout('r1'), $soon);
	my $cancelled = enqueue_as('payer', payout('r2'), 'deliver_after => ' . q{'} . LATER . q{'});

	do_as('payer', "SELECT tegro_cancel($cancelled)");
	do_as('postgres', 'REVOKE EXECUTE ON FUNCTION tegro_create_withdrawal(jsonb) FROM payer');

	my $row = wait_for_row($node, 'r1', 'review', 'accepted');
	is($row->{state}, 'review', 'what waited is set aside');
	like($row->{message}, qr/^role "payer" does not have EXECUTE on tegro_create_withdrawal\(jsonb\); grant it again/,
		'and says why and what to do');
	is($row->{next_at}, undef, 'nothing more is done for it');
	is($row->{attempts}, 0, 'it was not sent');
	like(slurp_file($node->logfile), qr/request $id of the tegro outbox is in review: role "payer"/, 'the log says so');
	like(error_of('payer', "SELECT tegro_wait($id)"),
		qr/TG002: createWithdrawal "r1" is set aside\nDETAIL:  role "payer".*\nHINT:  .*tegro_resolve\($id, 'refused', reason\)/,
		'whoever waits for it is told that nothing was sent');

	like(error_of('payer', 'SELECT tegro_create_withdrawal(' . (payout('r3') =~ s/^.*?, //r) . ')'),
		qr/permission denied/, 'no payout at once');
	like(error_of('payer', q{SELECT tegro_call('createWithdrawal', } . (payout('r3') =~ s/^.*?, //r) . ')'),
		qr/42501: permission denied to pay out\nDETAIL:  Role "payer"/, 'by no function');

	do_as('payer', "SELECT tegro_retry($cancelled)");
	state_becomes('r2', 'review', 'what is retried is set aside as well');
	do_as('postgres', "SELECT tegro_resolve($id, 'resend', 'the test says so')");
	wait_until(sub { my $r = row($node, 'r1'); return $r->{state} ne 'ready' });
	$row = wait_for_row($node, 'r1', 'review', 'accepted');
	is($row->{state}, 'review', 'what a person resends is set aside again');
	like($row->{message}, qr/^role "payer" does not have EXECUTE/, 'for the same reason');

	# looked up by request, and not for ever
	do_as('postgres', "SELECT tegro_refresh($id)");
	ok(wait_until(sub {
			my $looked_up = grep { $_->{method} eq 'withdrawal' && ($_->{params}{payment_id} // '') eq 'r1' } $sandbox->journal;
			return $looked_up && !defined row($node, 'r1')->{next_at};
		}), 'a person can have it looked up, once');

	is(scalar(sends($_)), 0, "$_ was never sent") foreach qw(r1 r2 r3);
	do_as('postgres', 'GRANT EXECUTE ON FUNCTION tegro_create_withdrawal(jsonb) TO payer');
	do_as('postgres', "SELECT tegro_resolve($id, 'resend', 'it may again')");
	state_becomes('r1', 'accepted', 'once the right is there again, a resend pays out');
	is(scalar(sends('r1')), 1, 'once');
	sleep 1;
	is(row($node, 'r2')->{state}, 'review', 'what nobody resends stays');
};

subtest 'fault 100: the right is there by membership, or is everybody\'s' => sub {
	do_as('postgres', 'CREATE ROLE payers; GRANT EXECUTE ON FUNCTION tegro_create_withdrawal(jsonb) TO payers;
		REVOKE EXECUTE ON FUNCTION tegro_create_withdrawal(jsonb) FROM payer; GRANT payers TO payer');
	enqueue_as('payer', payout('m1'));
	state_becomes('m1', 'accepted', 'a member pays out');
	enqueue_as('payer', payout('m2'), q{deliver_after => clock_timestamp() + interval '1 s'});
	do_as('postgres', 'REVOKE payers FROM payer');
	state_becomes('m2', 'review', 'but not when it is a member no more');
};

subtest 'fault 100: the role is dropped' => sub {
	role($_, pays => 1) foreach qw(leaver leaver2 leaver3);
	my $soon = q{deliver_after => clock_timestamp() + interval '1 s'};

	# everybody may pay out: that is not the right of a role that does not exist
	do_as('postgres', 'GRANT EXECUTE ON FUNCTION tegro_create_withdrawal(jsonb) TO PUBLIC');
	my $id = enqueue_as('leaver', payout('d1'), $soon);
	enqueue_as('leaver', order('d2'), $soon);
	enqueue_as('leaver', order('d3', shop_id => 'own'), $soon);
	drop_role('leaver');

	my $row = wait_for_row($node, 'd1', 'review', 'accepted');
	is($row->{state}, 'review', 'its payout is set aside');
	like($row->{message}, qr/^the role that enqueued it, number \d+, does not exist; resolve it as refused/, 'and says why');
	do_as('postgres', "SELECT tegro_resolve($id, 'resend', 'the test says so')");
	wait_until(sub { my $r = row($node, 'd1'); return $r->{state} ne 'ready' });
	is(wait_for_row($node, 'd1', 'review', 'accepted')->{state}, 'review', 'also when a person resends it');
	is(scalar(sends('d1')), 0, 'it was never sent');

	state_becomes('d2', 'accepted', 'its order goes out with the key that any role has');
	$row = wait_for_row($node, 'd3', 'review', 'accepted');
	is($row->{state}, 'review', 'for an order without a key, a person decides');
	like($row->{message}, qr/the role, number \d+, does not exist/, 'it says why');
	is($row->{next_at}, undef, 'and it is not tried for ever');

	# lookups of what is in doubt
	$sandbox->fault('createWithdrawal', 'execute_then_close', times => 2);
	$sandbox->fault('withdrawal', 'answer', times => 4, status => 500, body => '');
	enqueue_as('leaver2', payout('d4'));
	enqueue_as('leaver3', payout('d5', shop_id => 'own'));
	wait_for_row($node, $_, 'unknown') foreach qw(d4 d5);
	drop_role($_) foreach qw(leaver2 leaver3);
	$sandbox->clear_faults;
	state_becomes('d4', 'accepted', 'its payout in doubt is looked up with the key that any role has');
	$row = wait_for_row($node, 'd5', 'review', 'accepted');
	is($row->{state}, 'review', 'without a key, a person decides');
	like($row->{message}, qr/the role, number \d+, does not exist/, 'it says why');
	is($row->{next_at}, undef, 'and is not looked up for ever');
	push @own, 'own:*:' . API_KEY . ':own-secret';
	write_credentials();
	reload_conf($node);
	do_as('postgres', "SELECT tegro_refresh($row->{id})");
	state_becomes('d5', 'accepted', 'once there is a key for any role, a lookup by request finds it');
	is(scalar(sends($_)), 1, "$_ was sent once") foreach qw(d4 d5);
	do_as('postgres', 'REVOKE EXECUTE ON FUNCTION tegro_create_withdrawal(jsonb) FROM PUBLIC');
};

subtest 'fault 100: a trigger of an owner who may not pay out' => sub {
	do_as('postgres', 'CREATE SCHEMA wages AUTHORIZATION order_taker');
	do_as('order_taker', q{CREATE TABLE wages.due (number text, amount int, account text);
		CREATE TRIGGER pay AFTER INSERT ON wages.due FOR EACH ROW EXECUTE FUNCTION tegro_create_withdrawal_trigger(
			'{"payment_id": "$number", "amount": "$amount", "account": "$account", "currency": "RUB"}')});
	like(error_of('order_taker', q{INSERT INTO wages.due VALUES ('t1', 5, '4100')}),
		qr/42501: permission denied to pay out\nDETAIL:  Role "order_taker"/, 'fires no payout');
};


#
# 56, 78: parameters, before a reference is used
#

subtest 'fault 56: an UPDATE that is evaluated twice' => sub {
	do_as('app', q{CREATE TABLE shop.salary (id int PRIMARY KEY, n int DEFAULT 0, answer jsonb);
		INSERT INTO shop.salary VALUES (1); GRANT SELECT, UPDATE ON shop.salary TO boss; GRANT USAGE ON SCHEMA shop TO boss});
	my $pay = sub {
		my ($number) = @_;
		my $first = session($node, user => 'boss');

		# the second waits for the first, and then evaluates its SET again
		$first->query('BEGIN');
		$first->query('UPDATE shop.salary SET n = n + 1 WHERE id = 1');
		$session{app}->send(qq{UPDATE shop.salary SET answer = tegro_create_withdrawal(
			'{$number "currency": "RUB", "amount": 61, "account": "4100"}') WHERE id = 1});
		sleep 1;
		$first->query('COMMIT');
		$first->close;
		return $session{app}->wait;
	};

	like($pay->('')->{err}, qr/22023: "payment_id" is missing from the parameters.*\nHINT:  Give the shop's own number/s,
		'without a payment_id, it is an error that asks for it');
	is(scalar(grep { ($_->{params}{amount} // 0) == 61 } $sandbox->journal), 0, 'and nothing is sent');
	is($pay->('"payment_id": "twice",')->{err}, '', 'with one');
	is(scalar(sends('twice')), 1, 'it is paid once');
};

subtest 'fault 78: what is wrong uses no reference' => sub {
	my $receipt = { items => [ { name => 'Tea', count => 6, price => 100 } ] };
	my $arguments = order('wrong', amount => 100, receipt => $receipt);
	my ($params) = $arguments =~ /, (.*)/s;
	my $wrong = qr/22023: "receipt" does not add up to the amount\nDETAIL:  Its items add up to 600, and the amount is 100\./;

	like(error_of('app', 'SELECT ' . sprintf($_, $params)), $wrong, "a receipt that does not add up: $_")
	  foreach q{tegro_enqueue('createOrder', %s)}, 'tegro_create_order(%s)', q{tegro_call('createOrder', %s)};
	do_as('postgres', 'GRANT EXECUTE ON FUNCTION tegro_batch(text, jsonb[]), tegro_payment_url(jsonb) TO app');
	like(error_of('app', "SELECT * FROM tegro_batch('createOrder', ARRAY[$params]::jsonb[])"), $wrong, 'in a batch');
	like(error_of('app', "SELECT tegro_payment_url($params)"), $wrong, 'in a link');
	do_as('app', q{CREATE TABLE shop.receipts (number text, total numeric, items jsonb);
		CREATE TRIGGER ask AFTER INSERT ON shop.receipts FOR EACH ROW EXECUTE FUNCTION tegro_create_order_trigger(
			'{"order_id": "$number", "amount": "$total", "currency": "RUB", "receipt": {"items": "$items"}}')});
	my $insert = q{INSERT INTO shop.receipts VALUES ('wrong', 100, '[{"name": "Tea", "count": %s, "price": 100}]')};
	like(error_of('app', sprintf($insert, 6)), $wrong, 'by a trigger');
	like(error_of('app', q{INSERT INTO shop.receipts VALUES ('wrong', 100)}), qr/22023: "receipt" must be an object/,
		'by a trigger without items');

	is(row($node, 'wrong'), undef, 'nothing is on record');
	is(scalar(sends('wrong')), 0, 'nothing was sent');
	do_as('app', sprintf($insert, 1));
	state_becomes('wrong', 'accepted', 'the same reference, corrected');

	# blanks alone are no text
	foreach my $blank (' ', q{ \t\n\r}, "\N{U+A0}\N{U+3000}")
	{
		utf8::encode(my $bytes = $blank);
		foreach my $case (
			[ createOrder => order('blank', order_id => 'BLANK'), 'order_id' ],
			[ createOrder => order('blank', currency => 'BLANK'), 'currency' ],
			[ createWithdrawal => payout('blank', payment_id => 'BLANK'), 'payment_id' ],
			[ createWithdrawal => payout('blank', account => 'BLANK'), 'account' ],
			[ createWithdrawal => payout('blank', currency => 'BLANK'), 'currency' ])
		{
			my ($method, $call, $name) = @$case;

			$call =~ s/BLANK/$bytes/;
			like(error_of('app', "SELECT tegro_enqueue($call)"),
				qr/22023: "$name" must be a string that is not empty/, "$name of $method is blank");
		}
		like(error_of('app', qq{SELECT tegro_payment_url('{"order_id": "$bytes", "amount": 1, "currency": "RUB"}')}),
			qr/22023: "order_id" of a payment link must be a string that is not empty/, 'in a link');
	}
};

subtest 'an amount is a decimal number' => sub {
	my $floats = q{'createOrder', jsonb_build_object('order_id', 'float', 'currency', 'RUB', 'amount', 0.1::float8 + 0.2::float8)};

	like(error_of('app', "SELECT tegro_enqueue($floats)"),
		qr/22023: "amount" 0\.30000000000000004 has 17 decimals\nDETAIL:  At most 12 are allowed \(tegro\.max_amount_decimals\)/,
		'a slip of floating point is refused');
	set_server($node, { 'tegro.max_amount_decimals' => 17 }, values %session);
	enqueue_as('app', $floats, 'deliver_after => ' . q{'} . LATER . q{'});
	set_server($node, { 'tegro.max_amount_decimals' => 1 }, values %session);
	like(error_of('app', 'SELECT tegro_enqueue(' . order('cents', amount => 1.25) . ')'), qr/22023: "amount" 1\.25 has 2 decimals/,
		'the limit is a setting');
	enqueue_as('app', order('tenths', amount => '1.500'));
	state_becomes('tenths', 'accepted', 'zeros at the end are no decimals');
	do_as('app', q{SELECT tegro_refresh(id) FROM tegro_outbox WHERE reference = 'float'});
	state_becomes('float', 'accepted', 'what was enqueued under another limit is sent');
	set_server($node, { 'tegro.max_amount_decimals' => undef }, values %session);
};


#
# 98: keys
#

# How long it takes until an order of a role is there, in seconds.
sub time_order
{
	my ($name, $reference) = @_;
	my $begun = time;
	my $id = enqueue_as($name, order($reference));
	my $result = as($name, "SELECT tegro_wait($id, '20 s') ->> 'type'");

	is($result->{out}, 'success', "order $reference of $name") or diag($result->{err});
	return time - $begun;
}

# Requests with a reference that begins so.
sub sends_like
{
	my ($pattern) = @_;

	return grep { $_->{method} =~ /^create/ && ($_->{params}{order_id} // '') =~ $pattern } $sandbox->journal;
}

subtest 'fault 98: the key of one role is refused' => sub {
	write_credentials(SHOP_ID . ':thief:revoked-key:x');
	reload_conf($node);
	enqueue_as('thief', order("bad$_")) foreach 1 .. 3;
	ok(wait_until(sub { return slurp_file($node->logfile) =~ /tegro delivery pauses/ }), 'the shop and the key rest');
	like(slurp_file($node->logfile), qr/tegro delivery pauses for shop "\S+" and the key of role "thief"$/m,
		'the log names the shop and the role');
	unlike(slurp_file($node->logfile), qr/revoked-key/, 'and not the key');
	my $sent = scalar(sends_like(qr/^bad/));

	cmp_ok(time_order('order_taker', "good$_"), '<', 5, 'another role\'s key is good meanwhile') foreach 1 .. 5;
	enqueue_as('app', payout('good-payout'));
	state_becomes('good-payout', 'accepted', 'also for payouts');
	enqueue_as('thief', order('bad4'));
	sleep 2;
	is(scalar(sends_like(qr/^bad/)), $sent, 'nothing is sent with the key that was refused');
	is(do_as('postgres', q{SELECT string_agg(DISTINCT state, ' ') FROM tegro_outbox WHERE reference ~ '^bad'}),
		'ready', 'and nothing fails for it');

	# a member of it has the key of the file's first line that fits
	enqueue_as('boss', order('bad-boss'));
	sleep 1;
	is(row($node, 'bad-boss')->{state}, 'ready', 'a member of the role has the same key');
	write_credentials();
	reload_conf($node);
	state_becomes($_, 'accepted', "after a reload with a good key, $_ is sent") foreach qw(bad1 bad2 bad3 bad4 bad-boss);
};

subtest 'fault 98: a role gets another key without a reload' => sub {
	do_as('postgres', 'CREATE ROLE good_key; CREATE ROLE bad_key; GRANT bad_key TO thief');
	write_credentials(SHOP_ID . ':good_key:' . API_KEY . ':x', SHOP_ID . ':bad_key:revoked-key:x');
	reload_conf($node);
	enqueue_as('thief', order('moved1'));
	ok(wait_until(sub { return row($node, 'moved1')->{attempts} == 0 && (row($node, 'moved1')->{sqlstate} // '') eq 'TG001' }),
		'its key is refused');
	# the worker finds another request before one of a good key, and from then on
	# passes over the role
	enqueue_as('thief', order('moved2'));
	time_order('order_taker', 'moved3');
	do_as('postgres', 'GRANT good_key TO thief');
	wait_until(
		sub {
			# any commit has the worker look
			enqueue_as('order_taker', order('wake' . int(1000 * time)));
			return row($node, 'moved1')->{state} eq 'accepted' && row($node, 'moved2')->{state} eq 'accepted';
		}, 30);
	is(row($node, $_)->{state}, 'accepted', "with the key of a role that it became a member of, $_ is sent") foreach qw(moved1 moved2);
	do_as('postgres', 'REVOKE good_key, bad_key FROM thief');
	write_credentials();
	reload_conf($node);
};

subtest 'fault 98: too many requests with one key' => sub {
	write_credentials(SHOP_ID . ':thief:other-key:x');
	$sandbox->fault('createOrder', 'answer', status => 429, headers => { 'Retry-After' => '6' }, body => '');
	reload_conf($node);
	my $begun = time;
	enqueue_as('thief', order('many1'));
	ok(wait_until(sub { return (row($node, 'many1')->{sqlstate} // '') eq 'TG005' }), 'one role is limited');
	cmp_ok(time_order('order_taker', 'many2'), '<', 5, 'another is not');
	cmp_ok(time - $begun, '<', 6, 'while the pause lasts');
	write_credentials();
	reload_conf($node);
	state_becomes('many1', 'accepted', 'with another key, it is sent');
};

subtest 'fault 98: very many requests of a key that is refused' => sub {
	write_credentials(SHOP_ID . ':thief:revoked-key:x');
	reload_conf($node);
	do_as('thief', q{SELECT count(tegro_enqueue('createOrder',
		jsonb_build_object('order_id', 'much' || n, 'amount', 1, 'currency', 'RUB')))
		FROM generate_series(1, } . BACKLOG . ') AS n');
	ok(wait_until(sub { return scalar(sends_like(qr/^much/)) > 0 }), 'the first are sent');
	time_order('order_taker', 'first');

	my $read = sub {
		sleep 1.5;    # until all processes have told
		return do_as('postgres', q{SELECT idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'tegro_outbox'});
	};
	my $before = $read->();
	my @times = sort { $a <=> $b } map { time_order('order_taker', "after$_") } 1 .. 40;
	cmp_ok($times[20], '<', 1, 'orders of another role are sent within a second');
	cmp_ok($read->() - $before, '<', 20 * BACKLOG, 'and the rows that wait are not read for each');

	# a transaction that was open for long: its request is due in the past
	my $late = session($node, user => 'order_taker');
	$late->query('BEGIN');
	$late->query('SELECT tegro_enqueue(' . order('late') . ')');
	sleep 3;
	time_order('order_taker', 'before-late');
	my $begun = time;
	$late->query('COMMIT');
	state_becomes('late', 'accepted', 'a request that was committed late');
	cmp_ok(time - $begun, '<', 5, 'is not late for that');
	cmp_ok(scalar(sends_like(qr/^much/)), '<', 200, 'of those that wait, only the first were sent');

	do_as('postgres', q{DELETE FROM tegro_outbox WHERE reference ~ '^much' AND state = 'ready'});
	write_credentials();
	reload_conf($node);
};

subtest 'fault 98: a key that is refused, for very many shops' => sub {
	my $offset = -s $node->logfile;

	# the sandbox tells unknown shops before keys; payouts meet no fault
	write_credentials('*:thief:revoked-key:x');
	reload_conf($node);
	$sandbox->fault('createOrder', 'answer', times => 2 * SHOPS, status => 401, body => '');
	do_as('thief', q{SELECT count(tegro_enqueue('createOrder',
		jsonb_build_object('shop_id', 'invented' || n, 'order_id', 'shops' || n, 'amount', 1, 'currency', 'RUB')))
		FROM generate_series(1, } . SHOPS . ') AS n');
	ok(wait_until(sub { return slurp_file($node->logfile, $offset) =~ /tegro delivery pauses for all shops and the key of role "thief"$/m }),
		'the key rests for the role');
	my $time_payout = sub {
		my $begun = time;
		my $id = enqueue_as('app', payout("beside$_[0]"));
		my $result = as('app', "SELECT tegro_wait($id, '20 s') ->> 'type'");

		is($result->{out}, 'success', "payout $_[0] of another role") or diag($result->{err});
		return time - $begun;
	};
	my @times = sort { $a <=> $b } map { $time_payout->($_) } 0 .. 20;
	cmp_ok($times[10], '<', 1, 'payouts of another role are sent within a second');
	cmp_ok(scalar(sends_like(qr/^shops\d/)), '<', 500, 'only the first were sent');
	my @lines = slurp_file($node->logfile, $offset) =~ /tegro delivery pauses for .*/g;
	cmp_ok(scalar(@lines), '<=', 17, 'the log has a line for few shops, and one for all');

	$sandbox->clear_faults;
	do_as('postgres', q{DELETE FROM tegro_outbox WHERE reference ~ '^shops\d' AND state = 'ready'});
	write_credentials();
	reload_conf($node);
};

subtest 'fault 98: a role does not stop others by shops that do not exist' => sub {
	my $rested = 'for all shops and the key of role "thief"';
	my $offset = -s $node->logfile;

	# one key for all roles and shops, which the provider refuses for some
	write_credentials('*:*:' . API_KEY . ':x');
	reload_conf($node);
	$sandbox->fault('createOrder', 'answer', times => 30, status => 401, body => '');
	do_as('thief', q{SELECT tegro_enqueue('createOrder',
		jsonb_build_object('shop_id', 'mine' || n, 'order_id', 'mine' || n, 'amount', 1, 'currency', 'RUB'))
		FROM generate_series(1, 30) AS n});
	ok(wait_until(sub { return slurp_file($node->logfile, $offset) =~ /\Q$rested\E/ }), 'the key rests for the role');
	$sandbox->clear_faults;
	cmp_ok(time_order('order_taker', 'mine-good'), '<', 5, 'another role sends with the same key');
	do_as('postgres', q{DELETE FROM tegro_outbox WHERE reference ~ '^mine\d' AND state = 'ready'});
	write_credentials();
	reload_conf($node);
};

subtest 'fault 98: notifications are looked up with a key, too' => sub {
	do_as('postgres', 'GRANT EXECUTE ON FUNCTION tegro_on_payment(regprocedure, text) TO app;
		GRANT EXECUTE ON FUNCTION tegro_notify(text) TO order_taker');
	write_credentials(SHOP_ID . ':app:revoked-key:' . SECRET_KEY);
	reload_conf($node);
	do_as('app', q{SELECT tegro_on_payment('shop.one(bigint, text, text, jsonb)')});
	do_as('order_taker', q{SELECT tegro_create_order('{"order_id": "n1", "amount": 10, "currency": "RUB"}')});
	$sandbox->control('POST', 'pay', { payment_id => 'n1', shop_id => SHOP_ID });
	my $form = 'amount=10&currency=RUB&order_id=n1&payment_system=10&shop_id=' . SHOP_ID;
	do_as('order_taker', "SELECT tegro_notify('$form&sign=' || md5('$form' || '" . SECRET_KEY . "'))");
	ok(wait_until(sub {
			return do_as('postgres', q{SELECT failures FROM tegro_notification WHERE order_id = 'n1'}) > 0;
		}), 'the key of the role that is called is refused');

	# the pause is of that key; it ends with a reload
	cmp_ok(time_order('order_taker', 'n2'), '<', 5, 'another role\'s orders go out');
	sleep 2;
	my $look_ups = sub {
		return scalar(grep { $_->{method} eq 'order' && ($_->{params}{payment_id} // '') eq 'n1' } $sandbox->journal);
	};
	my $looked_up = $look_ups->();
	time_order('order_taker', 'n3');
	sleep 1;
	is($look_ups->(), $looked_up, 'the notification waits');
	write_credentials();
	reload_conf($node);
	ok(wait_until(sub {
			return do_as('postgres', q{SELECT confirmed FROM tegro_notification WHERE order_id = 'n1'}) eq 't';
		}), 'and is confirmed after a reload with a good key');
};

subtest 'a notification for a role that has been dropped' => sub {
	role('keeper');
	do_as('postgres', 'GRANT EXECUTE ON FUNCTION tegro_on_payment(regprocedure, text) TO keeper;
		GRANT USAGE ON SCHEMA shop TO keeper; GRANT EXECUTE ON FUNCTION tegro_notify(text) TO app');
	pop @own;
	write_credentials('own:keeper:' . API_KEY . ':own-secret');
	reload_conf($node);
	do_as('keeper', q{SELECT tegro_on_payment('shop.one(bigint, text, text, jsonb)', 'own')});
	# looked up after the role has gone
	$sandbox->fault('order', 'answer', times => 2, status => 500, body => '');
	my $form = 'amount=10&currency=RUB&order_id=n4&payment_system=10&shop_id=own';
	do_as('app', "SELECT tegro_notify('$form&sign=' || md5('$form' || 'own-secret'))");
	ok(wait_until(sub {
			return do_as('postgres', q{SELECT failures FROM tegro_notification WHERE order_id = 'n4'}) > 0;
		}), 'it waits');
	drop_role('keeper');
	ok(wait_until(sub {
			return do_as('postgres', q{SELECT state FROM tegro_notification WHERE order_id = 'n4'}) eq 'review';
		}), 'is in review');
	like(do_as('postgres', q{SELECT coalesce(next_at::text, 'never') || ' ' || message FROM tegro_notification WHERE order_id = 'n4'}),
		qr/^never .*the role, number \d+, does not exist/, 'says why, and is not looked up for ever');
};


#
# Texts that roles choose: a terminal obeys control characters
#

subtest 'texts of roles are shown without control characters' => sub {
	my $sql = q{E'a\\x1b[2J\\nb\\u202e'};
	my $shown = qr/a\\x1b\[2J(?:\\x0a| )b\\xe2\\x80\\xae/;
	my $object = sub {
		my %params = (currency => q{'RUB'}, amount => '10', @_);

		return 'jsonb_build_object(' . join(', ', map { "'$_', $params{$_}" } sort keys %params) . ')';
	};
	my $offset = -s $node->logfile;

	write_credentials(SHOP_ID . ':*:' . API_KEY . ':x');
	reload_conf($node);
	like(error_of('app', "SELECT tegro_call($sql, '{}')"), qr/invalid method name "$shown"/, 'the name of a method');

	my $order = $object->(order_id => $sql);
	my $later = q{deliver_after => '} . LATER . q{'};
	do_as('thief', "SELECT tegro_enqueue('createOrder', $order, $later)");
	like(error_of('app', "SELECT tegro_enqueue('createOrder', $order)"), qr/order_id "$shown" of shop "\S+" has been used/,
		'a reference that another role has used');
	like(error_of('thief', q{SELECT tegro_enqueue('createOrder', } . $object->(order_id => $sql, amount => '11') . ')'),
		qr/order_id "$shown" of shop "\S+" is another request/, 'one of another request');

	my $unknown = $object->(order_id => q{'odd-shop'}, shop_id => $sql);
	like(error_of('app', "SELECT tegro_create_order($unknown)"), qr/no API key for shop "$shown"/, 'a shop');
	do_as('app', "SELECT tegro_enqueue('createOrder', $unknown)");
	ok(wait_until(sub { return do_as('postgres', q{SELECT message FROM tegro_outbox WHERE reference = 'odd-shop'}) =~ $shown }),
		'the same on record');
	do_as('postgres', q{DELETE FROM tegro_outbox WHERE reference = 'odd-shop'});

	write_credentials('*:app:' . API_KEY . ':x');
	reload_conf($node);
	$sandbox->fault('createOrder', 'answer', times => 1, status => 401, body => '');
	do_as('app', q{SELECT tegro_enqueue('createOrder', } . $object->(order_id => q{'odd-pause'}, shop_id => $sql) . ')');
	ok(wait_until(sub { return slurp_file($node->logfile, $offset) =~ /tegro delivery pauses for shop "$shown"/ }),
		'a shop that rests');
	do_as('postgres', q{DELETE FROM tegro_outbox WHERE reference = 'odd-pause'});
	write_credentials();
	reload_conf($node);

	do_as('app', "CREATE FUNCTION shop.odd(id bigint, state text, reference text, answer jsonb) RETURNS void LANGUAGE plpgsql
		AS \$\$ BEGIN RAISE EXCEPTION USING MESSAGE = $sql; END \$\$");
	enqueue_as('app', order('odd-callback'), q{'shop.odd(bigint, text, text, jsonb)'});
	ok(wait_until(sub { return (row($node, 'odd-callback')->{callback_message} // '') =~ $shown }), 'a callback\'s error');
	ok(wait_until(sub { return slurp_file($node->logfile, $offset) =~ /callback \S+\(.*\) failed for request \d+ of the tegro outbox: $shown/ }),
		'the same in the log');
	do_as('postgres', q{DELETE FROM tegro_outbox WHERE reference = 'odd-callback'});

	# the command of the hint is a command
	do_as('postgres', q{CREATE FUNCTION shop.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
		CREATE TRIGGER U&"a\001b[2J\000ab\202e" AFTER INSERT ON tegro_event FOR EACH STATEMENT EXECUTE FUNCTION shop.nothing()});
	my $stopped = error_of('app', 'SELECT tegro_enqueue(' . order('odd-trigger') . ')');
	like($stopped, qr/TG006: trigger "$shown" on table "tegro_event" is not the extension's own/, 'a trigger');
	my ($command) = $stopped =~ /^HINT:  Run as the owner of the table: (.*)$/m;
	like($command, qr/^DROP TRIGGER U&"a\\\+00001B\[2J\\\+00000Ab\\\+00202E" ON public\.tegro_event;$/, 'whose name is escaped in the hint');
	do_as('postgres', $command);
	enqueue_as('app', order('odd-trigger'));
	state_becomes('odd-trigger', 'accepted', 'which removes it');

	unlike(join("\n", grep { !/STATEMENT:|^\t/ } split(/\n/, slurp_file($node->logfile, $offset))), qr/\e|\xe2\x80\xae|\x{202e}/, 'the log has none');
};

done_testing();
