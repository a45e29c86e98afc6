# 212_notifications.pl: a payment's whole way, and every way to fake one.
#
# A shop's row asks for its payment, the sandbox plays the customer and
# notifies, a relay in this test passes the form to tegro_notify() as a role
# that may do nothing else, the worker asks the provider, and the shop's
# function marks the row as paid.  Then the same with replays, forgeries, tests,
# notifications in any order, lookups that lag or fail, slow callbacks, rows that
# are held, processes that are killed at each point, and copies of the database.
#
# What must hold throughout: a row is marked once for an order that was paid,
# and never for one that was not.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use Digest::MD5 qw(md5_hex);
use JSON::PP;
use Test::More;
use TegroTest;
use TegroOutbox;
use Time::HiRes qw(sleep time);

my $second_shop = 'A77C266B1D9953AA863D3FBEF4B1D64F';
my $sandbox = sandbox(arguments => [ '--shop', "$second_shop:second-api-key:second-secret-key" ]);
my $manual = TegroTest::slurp("$FindBin::RealBin/../docs/notifications.md");
my $node = outbox_cluster('notifications', $sandbox);
my $other_key = 'another secret key';

# The shop: its owner registers the callback, "web" brings notifications.
$node->safe_psql('postgres', <<'SQL');
CREATE ROLE shopkeeper LOGIN;
CREATE ROLE web LOGIN;
GRANT EXECUTE ON FUNCTION tegro_on_payment(regprocedure, text), tegro_create_order_trigger(),
	tegro_payment_url(jsonb), tegro_retry_notification(bigint) TO shopkeeper;
GRANT SELECT ON tegro_notification TO shopkeeper;
GRANT EXECUTE ON FUNCTION tegro_notify(text),
	tegro_notify(text, text, text, text, text, text, text, text, text) TO web;
CREATE SCHEMA shop AUTHORIZATION shopkeeper;
SET ROLE shopkeeper;
CREATE TABLE shop.orders (number text PRIMARY KEY, total numeric(12, 2) NOT NULL, url text,
	paid boolean NOT NULL DEFAULT false, calls int NOT NULL DEFAULT 0, as_whom text);
CREATE FUNCTION shop.answered(id bigint, state text, reference text, answer jsonb) RETURNS void
BEGIN ATOMIC
	UPDATE shop.orders SET url = answer #>> '{data,url}' WHERE number = reference;
END;
CREATE FUNCTION shop.paid(id bigint, state text, reference text, answer jsonb) RETURNS void
BEGIN ATOMIC
	UPDATE shop.orders SET paid = true, calls = calls + 1, as_whom = current_user::text
	 WHERE number = reference AND total = (answer #>> '{data,amount}')::numeric;
END;
CREATE TRIGGER ask_for_payment AFTER INSERT ON shop.orders FOR EACH ROW WHEN (NEW.url IS NULL)
EXECUTE FUNCTION tegro_create_order_trigger(
	'{"order_id": "$number", "amount": "$total", "currency": "RUB"}', 'shop.answered');
SQL

# The key is the shopkeeper's alone: "web" has no line of its own.
my $credentials = $node->safe_psql('postgres', 'SHOW tegro.credentials_file');
TegroTest::spew($credentials, join(':', SHOP_ID, 'shopkeeper', API_KEY, SECRET_KEY) . "\n"
	  . join(':', SHOP_ID, 'postgres', API_KEY, SECRET_KEY) . "\n", 0600);
$node->reload;

# What comes by HTTP is handed to tegro_notify() as it is: 200 for what was
# taken, now or before, 500 for what was not, so that it is sent again.
my $relay = raw_server(
	sub {
		my ($socket) = @_;
		my $session = session($node, user => 'web');

		while (my $request = read_request($socket))
		{
			my $body = unpack('H*', $request->{body});
			my $result = $session->query("SELECT tegro_notify(convert_from('\\x$body', 'UTF8'))");
			my $status = $result->{sqlstate} eq '' ? '200 OK' : '500 Internal Server Error';

			print {$socket} "HTTP/1.1 $status\r\nContent-Length: 0\r\n\r\n";
			$socket->flush;
		}
		$session->close;
	});
my $notify_url = 'http://127.0.0.1:' . $relay->port . '/';

# An order with its row, once the provider has it.
sub order
{
	my ($number, $total) = @_;

	ask($node, "INSERT INTO shop.orders (number, total) VALUES ('$number', $total)");
	wait_until(sub { ask($node, "SELECT url IS NOT NULL FROM shop.orders WHERE number = '$number'")->{out} eq 't' })
	  or die "order $number did not come about";
	return;
}

sub pay
{
	my ($number, %more) = @_;

	return $sandbox->control('POST', 'pay',
		{ payment_id => $number, notify_url => $notify_url, %more })->{data};
}

# A form with its signature.
sub form
{
	my (%fields) = @_;
	my $key = delete $fields{key} // SECRET_KEY;
	my $text;

	%fields = (amount => '100.00', currency => 'RUB', payment_system => 10, shop_id => SHOP_ID, %fields);
	delete $fields{$_} foreach grep { !defined $fields{$_} } keys %fields;
	$text = join('&', map { "$_=$fields{$_}" } sort keys %fields);
	return "$text&sign=" . md5_hex($text . $key);
}

# Brings a form, as "web"; returns what came of it.
sub bring
{
	my ($form) = @_;

	return query($node, "SELECT tegro_notify('$form')", user => 'web');
}

# The notifications of an order, as hashes, first come first.
sub notifications
{
	my ($number) = @_;
	my $rows = ask($node,
		"SELECT coalesce(jsonb_agg(to_jsonb(n) ORDER BY id), '[]') FROM tegro_notification n WHERE order_id = '$number'")->{out};

	return @{ decode_json($rows eq '' ? '[]' : $rows) };
}

# The one notification of an order, once it has a state other than waiting and
# its callback is done; else as it is in the end.
sub settled
{
	my ($number, $patience) = @_;
	my $last;

	wait_until(
		sub {
			($last) = notifications($number);
			return $last
			  && $last->{state} ne 'waiting'
			  && (!$last->{confirmed} || !$last->{callback} || ($last->{callback_state} // '') eq 'done');
		},
		$patience // 120);
	return $last // {};
}

# "paid CALLS" or "unpaid CALLS"
sub shop_row
{
	my ($number) = @_;

	return ask($node,
		"SELECT CASE WHEN paid THEN 'paid' ELSE 'unpaid' END || ' ' || calls FROM shop.orders WHERE number = '$number'")->{out};
}

# Ends the worker; the next one is started by what needs it.  Says whether it is
# gone.
sub end_worker
{
	ask($node, q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'tegro delivery worker'});
	return wait_until(sub { !processes($node, 'tegro delivery worker') });
}

# How often the provider was asked for an order, by either number.
sub look_ups
{
	my ($number) = @_;
	my ($row) = notifications($number);
	my $id = ask($node, "SELECT answer #>> '{data,id}' FROM tegro_outbox WHERE reference = '$number'")->{out};

	return scalar grep {
		($_->{params}{payment_id} // '') eq $number
		  || $id ne '' && ($_->{params}{order_id} // '') eq $id
	} $sandbox->journal(method => 'order');
}

is(query($node, q{SELECT tegro_on_payment('shop.paid(bigint,text,text,jsonb)')}, user => 'shopkeeper')->{err},
	'', 'the shopkeeper registers his function');


#
# The whole way
#

{
	order('A1', 100);
	is(shop_row('A1'), 'unpaid 0', 'an order that is not paid');
	my $paid = pay('A1');
	is($paid->{notification_status}, 200, 'paid: the notification is taken');
	my $row = settled('A1');
	is("$row->{state} $row->{confirmed} $row->{role_name} $row->{request}",
		'confirmed 1 shopkeeper ' . ask($node, q{SELECT id FROM tegro_outbox WHERE reference = 'A1'})->{out},
		'the provider has confirmed it');
	is(shop_row('A1'), 'paid 1', "the shop's row is paid");
	is(ask($node, q{SELECT as_whom FROM shop.orders WHERE number = 'A1'})->{out},
		'shopkeeper', 'the function ran as who registered it');
	is(look_ups('A1'), 1, 'the provider was asked once');
	unlike($row->{fields}{sign} // '', qr/./, 'the signature is not kept');
}

#
# Replays
#

{
	my $paid = pay('A1', repeat => 1_000);
	is($paid->{notifications_accepted}, 1_000, '1,000 replays are answered with 200');
	is(scalar(notifications('A1')), 1, 'and recorded once');

	order('A2', 100);
	$paid = pay('A2', repeat => 1_000);
	is($paid->{notifications_accepted}, 1_000, 'a new one, 1,000 times');
	settled('A2');
	is(scalar(notifications('A2')), 1, 'is recorded once');
	is(shop_row('A2'), 'paid 1', 'and credited once');
	is(look_ups('A2') + look_ups('A1'), 2, 'and looked up once');

	# at the same time, by eight sessions
	order('A3', 100);
	pay('A3', notify_url => 'http://127.0.0.1:1/');
	my $form = form(order_id => 'A3');
	my @sessions = map { session($node, user => 'web') } 1 .. 8;
	$_->query('BEGIN') foreach @sessions;
	$_->send("SELECT tegro_notify('$form'); COMMIT;") foreach @sessions;
	my @taken = map { $_->wait->{out} } @sessions;
	$_->close foreach @sessions;
	is(join('', sort @taken), 'f' x 7 . 't', 'of eight that come at once, one is taken');
	settled('A3');
	is(shop_row('A3'), 'paid 1', 'and credited once');
}

# Fields without the number of a payment come first: those of the order's own
# link, say, which its customer has.
{
	order('A4', 100);
	pay('A4', notify_url => 'http://127.0.0.1:1/');
	is(bring(form(order_id => 'A4', payment_system => undef))->{out}, 't', 'the fields of a link are taken');
	my $number = settled('A4')->{payment_id};
	like($number // '', qr/^\d+$/, 'the payment has the number that the provider tells');
	is(bring(form(order_id => 'A4', payment_id => $number))->{out}, 'f', 'its own notification is a replay');
	is(bring(form(order_id => 'A4', payment_id => $number + 1))->{out}, 't', 'that of another payment is not');
	is(join(' ', map { $_->{state} } notifications('A4')), 'confirmed review', 'it is in review');
	is(shop_row('A4'), 'paid 1', 'and credited is one');
}

# A replay gives nobody any work: not even a worker is started.
{
	ok(end_worker(), 'the worker has ended');
	is(bring(form(order_id => 'A3'))->{out}, 'f', 'another replay');
	sleep 1;
	is(scalar(my @workers = processes($node, 'tegro delivery worker')), 0, 'starts none');
}

# Many at once, and three who deliver them.
{
	my @numbers = map { "K$_" } 1 .. 60;

	ask($node, sprintf(q{INSERT INTO shop.orders (number, total) VALUES %s}, join(', ', map { "('$_', 100)" } @numbers)));
	wait_until(sub { ask($node, q{SELECT count(*) FROM shop.orders WHERE number LIKE 'K%' AND url IS NULL})->{out} eq '0' });
	pay($_, notify_url => 'http://127.0.0.1:1/') foreach @numbers;
	my $bringer = session($node, user => 'web');
	my @workers = map { session($node) } 1 .. 2;
	$bringer->query('BEGIN');
	$bringer->query(sprintf(q{SELECT tegro_notify('%s')}, form(order_id => $_))) foreach @numbers;
	$bringer->query('COMMIT');
	$_->send('CALL tegro_deliver()') foreach @workers;
	$_->wait foreach @workers;
	$_->close foreach $bringer, @workers;
	ok(wait_until(sub { ask($node, q{SELECT count(*) FROM tegro_notification WHERE order_id LIKE 'K%' AND callback_state = 'done'})->{out} eq '60' }),
		'sixty at once are confirmed');
	is(ask($node, q{SELECT count(*) FROM shop.orders WHERE number LIKE 'K%' AND paid AND calls = 1})->{out},
		'60', 'and each credited once, whoever delivers');
	is(scalar(grep { ($_->{params}{order_id} // '') ne '' } $sandbox->journal(method => 'order')),
		4 + 60, 'and looked up once');
}

#
# Forgeries
#

{
	order('B1', 100);
	my $paid = pay('B1', tamper => JSON::PP::true);
	is($paid->{notification_status}, 500, 'what was tampered with is refused');
	is(scalar(notifications('B1')), 0, 'and not recorded');

	order('B2', 100);
	my $refused = bring(form(order_id => 'B2', key => $other_key));
	is($refused->{sqlstate}, '28000', 'so is one of another key');
	is($refused->{out}, '', 'with no answer');


	# the role that brings it brings the key, too
	ask($node, $_) foreach (
		'GRANT SET ON PARAMETER tegro.secret_key, tegro.api_key TO web, shopkeeper',
		'GRANT EXECUTE ON FUNCTION tegro_verify_notification(text) TO web');
	my $session = session($node, user => 'web');
	is($session->query("SET tegro.secret_key = '$other_key'; SET tegro.api_key = 'x'")->{err}, '', 'a role that may set keys');
	is($session->query(sprintf(q{SELECT tegro_verify_notification('%s')}, form(order_id => 'B2', key => $other_key)))->{out},
		't', 'verifies with its own');
	is($session->query(sprintf(q{SELECT tegro_notify('%s')}, form(order_id => 'B2', key => $other_key)))->{sqlstate},
		'28000', 'but brings nothing with it');
	$session->close;
	{
		local $ENV{PGOPTIONS} = '-c tegro.secret_key=' . $other_key =~ s/ /\\ /gr;
		is(bring(form(order_id => 'B2', key => $other_key))->{sqlstate}, '28000', 'nor with one that came with the connection');
	}

	# code of a role that runs in a superuser's session, a worker's or another
	my $forged = form(order_id => 'B9', key => $other_key);
	ask($node, $_) foreach (
		'GRANT EXECUTE ON FUNCTION tegro_enqueue(text, jsonb, regprocedure, timestamptz), tegro_notify(text) TO shopkeeper',
		"CREATE FUNCTION shop.brings(id bigint, state text, reference text, answer jsonb) RETURNS void LANGUAGE plpgsql AS \$\$
			BEGIN SET tegro.secret_key = '$other_key'; PERFORM public.tegro_notify('$forged'); END \$\$",
		'ALTER FUNCTION shop.brings OWNER TO shopkeeper');
	query($node, q{SELECT tegro_enqueue('createOrder', '{"order_id": "B8", "amount": 1, "currency": "RUB"}', 'shop.brings'::regproc)},
		user => 'shopkeeper');
	ok(wait_until(sub { ask($node, q{SELECT callback_message IS NOT NULL FROM tegro_outbox WHERE reference = 'B8'})->{out} eq 't' }),
		"a callback's own key");
	like(ask($node, q{SELECT callback_message FROM tegro_outbox WHERE reference = 'B8'})->{out}, qr/not signed by the provider/,
		'does not count');
	ask($node, 'ALTER FUNCTION shop.brings SECURITY DEFINER');
	is(ask($node, q{SELECT shop.brings(1, '', '', NULL)})->{sqlstate}, '28000', "nor a function's, in a superuser's session");
	is(ask($node, "BEGIN; SET LOCAL tegro.secret_key = '$other_key'; SELECT tegro_notify('$forged'); ROLLBACK")->{sqlstate}, '28000',
		"nor does one that a superuser sets: the worker does not have it");
	is(scalar(notifications('B9')), 0, 'and nothing is recorded');
	ask($node, $_) foreach (
		'REVOKE SET ON PARAMETER tegro.secret_key, tegro.api_key FROM web, shopkeeper',
		'REVOKE EXECUTE ON FUNCTION tegro_verify_notification(text) FROM web');
	ask($node, 'DROP FUNCTION shop.brings');
	# nor is it called again, which others would wait for
	ask($node, q{UPDATE tegro_outbox SET callback_at = NULL WHERE reference = 'B8'});

	# the key has leaked: the provider has the last word
	is(bring(form(order_id => 'B2'))->{out}, 't', 'one that is signed right, of an order that is not paid');
	ok(wait_until(sub { look_ups('B2') >= 2 }), 'is looked up, and again');
	my ($row) = notifications('B2');
	is("$row->{state} $row->{confirmed}", 'waiting 0', 'but not confirmed');
	like($row->{message}, qr/status 0, not paid/, 'and says why');
	is(shop_row('B2'), 'unpaid 0', 'nor credited');

	is(bring(form(order_id => 'B3'))->{out}, 't', 'one of an order that nobody knows');
	ok(wait_until(sub { my ($r) = notifications('B3'); ($r->{failures} // 0) > 0 }), 'is looked up in vain');
	($row) = notifications('B3');
	is("$row->{state} $row->{confirmed} $row->{message}",
		'waiting 0 the provider does not know the order; it is looked up again', 'and not confirmed');

	# paid, but another amount than the notification says, and than was ordered
	order('B4', 5);
	pay('B4', notify_url => 'http://127.0.0.1:1/');
	bring(form(order_id => 'B4', amount => '500.00'));
	$row = settled('B4');
	is("$row->{state} $row->{confirmed} $row->{message}",
		'review 0 amount 5.00 was ordered, 500.00 is there', 'another amount than was ordered');
	is(look_ups('B4'), 0, 'is not even looked up');
	is(shop_row('B4'), 'unpaid 0', 'nor credited');

	# an order of the same number that was made behind our back, cheaper, and paid
	order('B5', 100);
	is(ask($node, q{SELECT tegro_create_order('{"order_id": "B5", "amount": 100, "currency": "UAH"}') ->> 'type'})->{out},
		'success', 'another order under the same number');
	pay('B5', notify_url => 'http://127.0.0.1:1/');
	bring(form(order_id => 'B5'));
	ok(wait_until(sub { look_ups('B5') >= 1 && do { my ($r) = notifications('B5'); $r->{failures} > 0 } }), 'is paid');
	($row) = notifications('B5');
	is("$row->{state} $row->{confirmed}", 'waiting 0', 'but it is not ours');
	is(shop_row('B5'), 'unpaid 0', 'and not credited');
}

#
# However it is written
#

subtest 'fault 77: urlencoded, multipart, JSON, with payment_system and without, in capitals' => sub {
	my %write = (
		urlencoded => sub { map { ('-d', "$_[$_ * 2]=$_[$_ * 2 + 1]") } 0 .. $#_ / 2 },
		multipart => sub { map { ('-F', "$_[$_ * 2]=$_[$_ * 2 + 1]") } 0 .. $#_ / 2 },
		JSON => sub { my %fields = @_; ('-H', 'Content-Type: application/json', '-d', encode_json(\%fields)) });
	my $number = 0;

	foreach my $way (sort keys %write)
	{
		foreach my $system (undef, 10)
		{
			foreach my $case (qw(lc uc))
			{
				my $order = 'W' . ++$number;
				my %fields = map { split(/=/, $_, 2) } split(/&/, form(order_id => $order, payment_system => $system));
				my $name = "$way, " . ($system ? 'with' : 'without') . " payment_system, sign $case";

				$fields{sign} = uc $fields{sign} if $case eq 'uc';
				order($order, 100);
				pay($order, notify_url => 'http://127.0.0.1:1/');
				open(my $curl, '-|', 'curl', '-sS', '--noproxy', '*', '-o', '/dev/null', '-w', '%{http_code}',
					$write{$way}->(map { ($_, $fields{$_}) } sort keys %fields), $notify_url)
				  or die "curl: $!";
				is(scalar <$curl>, '200', "$name: taken");
				settled($order);
				is(shop_row($order), 'paid 1', "$name: credited");
				# the same written otherwise is a replay
				is(bring(form(order_id => $order, payment_system => $system))->{out}, 'f', "$name: once");
			}
		}
	}
	is($number, 12, 'each way was tried');
};

subtest "fault 77: a payment link's own fields are a hint, and no more" => sub {
	my $link = query($node, q{SELECT tegro_payment_url('{"order_id": "B6", "amount": 100, "currency": "RUB"}')},
		user => 'shopkeeper')->{out} =~ s/^.*\?//r;

	order('B6', 100);
	is(bring("$link&payment_system=10")->{sqlstate}, '28000', 'with more to them they are not signed');
	is(bring($link)->{out}, 't', 'as they are, every customer can bring them');
	ok(wait_until(sub { look_ups('B6') >= 1 }), 'the provider is asked');
	my ($row) = notifications('B6');
	is("$row->{state} $row->{confirmed} " . shop_row('B6'), 'waiting 0 unpaid 0', 'and nothing is credited');

	# and do not make the payment wait
	is(bring(form(order_id => 'B6'))->{out}, 'f', "the provider's notification says the same");
	ask($node, q{UPDATE tegro_notification SET next_at = now() + interval '3 hours', waiting_since = now() - interval '1 day',
		failures = 100, payment_id = NULL WHERE order_id = 'B6'});
	my $before = look_ups('B6');
	is(bring(form(order_id => 'B6', payment_id => 17))->{out}, 'f', 'it comes, much later');
	is(ask($node, q{SELECT next_at < now() + interval '61 seconds', next_at > now() + interval '50 seconds', payment_id, failures
		FROM tegro_notification WHERE order_id = 'B6'})->{out}, 't|t|17|100', 'the order is looked up within a minute');
	ask($node, q{UPDATE tegro_notification SET next_at = next_at - interval '20 seconds' WHERE order_id = 'B6'});
	bring($link) for 1 .. 5;
	is(ask($node, q{SELECT next_at < now() + interval '41 seconds' FROM tegro_notification WHERE order_id = 'B6'})->{out},
		't', 'others do not put that off');
	is(look_ups('B6'), $before, 'nor cause more');
	pay('B6', notify_url => 'http://127.0.0.1:1/');
	ask($node, q{UPDATE tegro_notification SET next_at = now(), failures = 1 WHERE order_id = 'B6'});
	query($node, q{SELECT tegro_retry_notification(id) FROM tegro_notification WHERE order_id = 'B6'}, user => 'shopkeeper');
	settled('B6');
	is(shop_row('B6'), 'paid 1', 'and what is paid is credited');
};

subtest 'fault 104: nobody learns which shops have keys' => sub {
	my $keys = TegroTest::slurp($credentials);
	my $form = form(order_id => 'O1');
	# with its place in the source: they are one error
	my $refusal = qr/ERROR:  28000: notification is not signed by the provider\nDETAIL:  It was not recorded\.\n/;
	my %texts;
	my $answer = sub {
		my ($name, $body, $cause) = @_;
		my $mark = log_mark($node);
		my $session = session($node, user => 'web');

		# whatever a client can ask to be told
		$session->query('SET client_min_messages = debug1');
		my $taken = $session->query("SELECT tegro_notify('$body')");
		is("$taken->{out} $taken->{sqlstate}", ' 28000', "$name: is not taken");
		like($taken->{err}, $refusal, "$name: with one text");
		$texts{ $taken->{err} } = 1;
		like(log_since($node, $mark), qr/DETAIL:  It was not recorded\.  $cause/, "$name: the log has the cause");

		$mark = log_mark($node);
		my $verified = $session->query("SELECT tegro_verify_notification('$body')");
		is("$verified->{out} $verified->{err}", 'f ', "$name: is not verified, without a word");
		like(log_since($node, $mark), qr/notification was not verified\n[^\n]*DETAIL:  $cause/, "$name: the log has the cause");
		$mark = log_mark($node);
		$session->query("SELECT tegro_verify_notification('$body')") for 1 .. 20;
		unlike(log_since($node, $mark), qr/was not verified/, "$name: once in a minute");
		$session->close;
	};

	ask($node, 'GRANT EXECUTE ON FUNCTION tegro_verify_notification(text) TO web');
	TegroTest::spew($credentials, $keys . join(':', SHOP_ID, 'web', API_KEY, SECRET_KEY) . "\n"
		  . "$second_shop:*:another-key:\n", 0600);
	$node->reload;
	is(bring($form)->{out}, 't', 'one that is signed');
	$answer->('wrong signature', form(order_id => 'O1', key => 'x'), 'The signature is not that of shop "' . SHOP_ID . '"');
	$answer->('no such shop', form(order_id => 'O1', shop_id => 'X'), 'There is no secret key for shop "X" and role "web"');
	$answer->('no secret key', form(order_id => 'O1', shop_id => $second_shop),
		qq(There is no secret key for shop "$second_shop" and role "web"));
	# what signs where there is no key is no key
	$answer->('the stand-in for a key', form(order_id => 'O1', shop_id => 'X', key => 'no key, of a usual length'), 'There is no secret key');
	chmod(0644, $credentials);
	$node->reload;
	$answer->('no usable file', $form, 'could not use the credentials file: File "[^"]*": It belongs to user \d+ with mode 0644');
	is(query($node, q{SELECT tegro_payment_url('{"order_id": "1", "amount": 1, "currency": "RUB"}')})->{sqlstate}, 'TG006',
		'others are told that');
	TegroTest::spew($credentials, $keys, 0600);
	chmod(0600, $credentials);
	$node->reload;

	# as if there were no shop in it at all
	foreach my $body (form(order_id => 'O1', shop_id => undef), form(order_id => 'O1', shop_id => ''), '', 'x', '{}', '[')
	{
		my $result = bring($body);

		is("$result->{out} $result->{sqlstate}", ' 28000', "no shop_id: $body");
		like($result->{err}, $refusal, 'the same text');
		$texts{ $result->{err} } = 1;
	}
	is(scalar(keys %texts), 1, 'there is one answer for all: ' . join('', keys %texts));
	ask($node, 'REVOKE EXECUTE ON FUNCTION tegro_verify_notification(text) FROM web');
	ask($node, q{UPDATE tegro_notification SET next_at = NULL, state = 'unpaid' WHERE order_id = 'O1'});
};

subtest "faults 94, 103: the manual's function compares shop, currency and amount" => sub {
	my $sql = join("\n", $manual =~ /^(CREATE TABLE shop\.orders .*?^\);)\n(CREATE FUNCTION shop\.order_paid.*?^END;)$/ms);
	my $keys = TegroTest::slurp($credentials);
	my $run = sub { query($node, $_[0], database => 'manual') };
	my $open = sub {
		my ($link) = @_;

		open(my $curl, '-|', 'curl', '-sS', '--noproxy', '*', $link) or die "curl: $!";
		return do { local $/; <$curl> } =~ /id="order">(\d+)</ ? $1 + 0 : undef;
	};
	my $told = sub {
		my ($number, %fields) = @_;
		my $form = form(order_id => $number, %fields);

		is($run->("SELECT tegro_notify('$form')")->{out}, 't', "$number: a payment is told");
		ok(wait_until(sub { $run->(qq{SELECT count(*) FROM tegro_notification WHERE order_id = '$number'
			AND confirmed AND callback_state = 'done'})->{out} >= ($fields{seen} // 1) }), "$number: it is confirmed");
		return $run->("SELECT paid_at IS NOT NULL FROM shop.orders WHERE number = $number")->{out};
	};

	TegroTest::spew($credentials, $keys . "$second_shop:postgres:second-api-key:second-secret-key\n", 0600);
	$node->reload;
	query($node, 'CREATE DATABASE manual');
	$run->('CREATE EXTENSION tegro; CREATE SCHEMA shop');
	is($run->("SET tegro.shop_id = '" . SHOP_ID . "'; $sql")->{err}, '', 'the function is made');
	is($run->("SELECT tegro_on_payment('shop.order_paid(bigint,text,text,jsonb)', '$_')")->{err}, '', "and registered: $_")
	  foreach SHOP_ID, $second_shop;
	is($run->(q{INSERT INTO shop.orders (number, total, currency) VALUES (1, 100, 'RUB'), (2, 10, 'RUB'), (3, 100, 'USD')})->{err},
		'', 'with three orders');

	# an order of the same number and amount, paid in another shop
	is($run->(qq{SELECT tegro_create_order('{"shop_id": "$second_shop", "order_id": "1", "amount": 100, "currency": "RUB"}') ->> 'type'})->{out},
		'success', 'another shop has an order 1');
	pay('1', shop_id => $second_shop, notify_url => 'http://127.0.0.1:1/');
	is($told->(1, shop_id => $second_shop, key => 'second-secret-key'), 'f', 'which credits nothing here');
	is($run->(q{SELECT tegro_create_order('{"order_id": "1", "amount": 100, "currency": "RUB"}') ->> 'type'})->{out}, 'success', 'ours');
	pay('1', shop_id => SHOP_ID, notify_url => 'http://127.0.0.1:1/');
	is($told->(1, seen => 2), 't', 'is credited when it is paid');

	# an old link, which asks for less
	my $link = $run->(q{SELECT tegro_payment_url('{"order_id": "2", "amount": 10, "currency": "RUB"}')})->{out};
	$run->(q{UPDATE shop.orders SET total = 90000 WHERE number = 2});
	$sandbox->control('POST', 'pay', { order_id => $open->($link), notify_url => 'http://127.0.0.1:1/' });
	is($told->(2, amount => '10.00'), 'f', 'an old link pays what it says, and no more');

	# the same amount in another currency
	is($run->(q{SELECT tegro_create_order('{"order_id": "3", "amount": 100, "currency": "RUB"}') ->> 'type'})->{out}, 'success', 'RUB for USD');
	pay('3', notify_url => 'http://127.0.0.1:1/');
	is($told->(3), 'f', 'is another currency');

	TegroTest::spew($credentials, $keys, 0600);
	$node->reload;
	ask($node, q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'manual'});
	is(query($node, 'DROP DATABASE manual WITH (FORCE)')->{err}, '', 'and gone');
};

subtest "the manual's CGI program" => sub {
	my ($program) = $manual =~ /^```sh\n(#!.*?)^```$/ms;
	my $dir = TegroTest::scratch();
	my ($host, $port) = ($node->host, $node->port);
	my $post = sub {
		my ($body) = @_;

		TegroTest::spew("$dir/body", $body);
		local $ENV{PGSERVICEFILE} = "$dir/services";
		return scalar `sh $dir/program < $dir/body 2> $dir/errors`;
	};
	my %fields = map { split(/=/, $_, 2) } split(/&/, form(order_id => 'W-1'));
	my %body = (
		urlencoded => join('&', map { "$_=$fields{$_}" } sort keys %fields),
		JSON => encode_json(\%fields),
		multipart => join('', map { "--b\r\nContent-Disposition: form-data; name=\"$_\"\r\nContent-Type: text/plain\r\n\r\n$fields{$_}\r\n" }
			  sort keys %fields) . "--b--\r\n");

	TegroTest::spew("$dir/program", $program);
	TegroTest::spew("$dir/services", "[web]\nhost=$host\nport=$port\nuser=web\ndbname=postgres\n");
	is($post->($body{$_}), "Status: 200 OK\r\nContent-Type: text/plain\r\n\r\nW-1|success", $_) foreach sort keys %body;
	is(scalar(notifications('W-1')), 1, 'it is recorded');
	is($post->($_), "Status: 500 Internal Server Error\r\n\r\n", 'all else is to be sent again: ' . substr($_, 0, 20))
	  foreach $body{JSON} =~ s/100/101/r, "$body{multipart}x", 'x' x 70_000, "a=\xff", '';
	ask($node, q{UPDATE tegro_notification SET next_at = NULL, state = 'unpaid' WHERE order_id = 'W-1'});
};

#
# Tests
#

{
	ask($node, q{INSERT INTO shop.orders (number, total, url) VALUES ('C1', 100, 'x'), ('C2', 100, 'x')});
	ask($node, q{SELECT tegro_create_order('{"order_id": "C1", "amount": 100, "currency": "RUB", "test": 1}')});
	my $paid = pay('C1');
	is($paid->{notification_status}, 200, 'a test is taken');
	my ($row) = notifications('C1');
	is("$row->{state} $row->{test} $row->{confirmed}", 'test 1 0', 'as a test');
	is(look_ups('C1'), 0, 'and not looked up');
	is(shop_row('C1'), 'unpaid 0', 'and credits nothing');

	# one that hides it
	bring(form(order_id => 'C1'));
	wait_until(sub { my @r = notifications('C1'); @r == 2 && $r[1]{state} ne 'waiting' });
	my @rows = notifications('C1');
	is("$rows[1]{state} $rows[1]{confirmed}", 'test 0', 'nor does one that hides it');
	is(shop_row('C1'), 'unpaid 0', 'the provider says that it was one');

	# a test does not stand in the way of the payment
	bring(form(order_id => 'C2', test => 1));
	ask($node, q{SELECT tegro_create_order('{"order_id": "C2", "amount": 100, "currency": "RUB"}')});
	pay('C2');
	wait_until(sub { shop_row('C2') eq 'paid 1' });
	is(shop_row('C2'), 'paid 1', 'a payment after a test of the same number counts');
}

#
# Any order
#

{
	order('D1', 100);
	bring(form(order_id => 'D1', status => $_)) foreach 3, 0, 2;
	my $early = form(order_id => 'D1', status => 1);
	is(bring($early)->{out}, 't', 'that it is paid comes before it is');
	ok(wait_until(sub { look_ups('D1') >= 1 }), 'and is looked up');
	is(shop_row('D1'), 'unpaid 0', 'in vain');
	pay('D1');
	ok(wait_until(sub { shop_row('D1') eq 'paid 1' }), 'later it is');
	bring(form(order_id => 'D1', status => $_)) foreach 0, 2, 3, 1;
	bring(form(order_id => 'D1'));
	sleep 0.5;
	is(join(' ', map { "$_->{status}$_->{state}$_->{confirmed}" } notifications('D1')),
		'3noted0 0noted0 2noted0 1confirmed1', 'and stays so, whatever comes');
	is(shop_row('D1'), 'paid 1', 'credited once');

	# lookups lag behind the notification
	order('D2', 100);
	$sandbox->fault('order', 'hide', ms => 1500);
	pay('D2');
	my $row = settled('D2');
	is("$row->{state} $row->{confirmed}", 'confirmed 1', 'a lookup that lags is repeated');
	is(shop_row('D2'), 'paid 1', 'and then it is credited');

	# they fail, in all the ways that they can
	order('D3', 100);
	$sandbox->fault('order', 'close_after_read');
	$sandbox->fault('order', 'answer', status => 500, body => '{"type":"success","data":{"status":1}}');
	pay('D3');
	$row = settled('D3');
	is("$row->{state} $row->{confirmed}", 'confirmed 1', 'lookups that fail are repeated');
	is(shop_row('D3'), 'paid 1', 'and then it is credited');
	$sandbox->clear_faults;

	foreach my $case (
		[ 'no amount', '{"status":1,"payment_id":"D4","currency":"RUB"}', 'review' ],
		[ 'no number', '{"status":1,"amount":"100","currency":"RUB"}', 'waiting' ],
		[ 'another number', '{"status":1,"amount":"100","currency":"RUB","payment_id":"D5"}', 'waiting' ],
		[ 'another currency', '{"status":1,"amount":"100","currency":"UAH","payment_id":"D4"}', 'review' ],
		[ 'no status', '{"amount":"100","currency":"RUB","payment_id":"D4"}', 'waiting' ],
		[ 'a list', '[]', 'waiting' ],
		[ 'a status of 10', '{"status":10,"amount":"100","currency":"RUB","payment_id":"D4"}', 'waiting' ],
		[ 'true', '{"status":true,"amount":"100","currency":"RUB","payment_id":"D4"}', 'waiting' ],
		[ 'a test', '{"status":1,"amount":"100","currency":"RUB","payment_id":"D4","test_order":1}', 'test' ])
	{
		my ($name, $data, $state) = @$case;
		my $number = 'D4';

		ask($node, q{DELETE FROM tegro_notification WHERE order_id = 'D4'});
		ask($node, q{INSERT INTO shop.orders (number, total, url) VALUES ('D4', 100, 'x') ON CONFLICT DO NOTHING});
		$sandbox->fault('order', 'answer', status => 200, times => -1,
			body => qq({"type":"success","desc":"","data":$data}));
		# by the provider's number, and by the shop's
		bring(form(order_id => $number, payment_id => $name eq 'no number' ? 7 : undef));
		wait_until(sub { my ($r) = notifications($number); $r && ($r->{failures} > 0 || $r->{state} ne 'waiting') });
		my ($r) = notifications($number);
		is("$r->{state} $r->{confirmed}", "$state 0", "an answer with $name confirms nothing");
		ask($node, q{UPDATE tegro_notification SET next_at = NULL, state = 'unpaid' WHERE order_id = 'D4'});
		$sandbox->clear_faults;
	}
	is(shop_row('D4'), 'unpaid 0', 'and credits nothing');
}

#
# Links
#

{
	ask($node, q{INSERT INTO shop.orders (number, total, url) VALUES ('E1', 12.50, 'x'), ('E2', 7, 'x')});
	foreach my $number ('E1', 'E2')
	{
		my $amount = $number eq 'E1' ? '"12.50"' : '7.00';
		my $link = query($node,
			qq{SELECT tegro_payment_url('{"order_id": "$number", "amount": $amount, "currency": "RUB", "notify_url": "$notify_url"}')},
			user => 'shopkeeper')->{out};
		my $open = sub {
			open(my $curl, '-|', 'curl', '-sS', '--noproxy', '*', $link) or die "curl: $!";
			my ($id) = do { local $/; <$curl> } =~ /id="order">(\d+)</;
			return $id;
		};

		my $id = $open->();
		ok($id, 'a link opens at the sandbox');
		# E2's is opened once more: a lookup by the shop's number finds that one
		$open->() if $number eq 'E2';
		$sandbox->control('POST', 'pay', { order_id => $id + 0 });
		my $row = settled($number);
		is("$row->{state} $row->{confirmed}", 'confirmed 1', "its payment is confirmed: $number");
		is(shop_row($number), 'paid 1', 'and credited');
	}
}

#
# Given up, and taken up again
#

{
	order('F1', 100);
	my $form = form(order_id => 'F1');
	bring($form);
	ok(wait_until(sub { look_ups('F1') >= 1 }), 'an order that is not paid');
	ask($node, q{UPDATE tegro_notification SET waiting_since = now() - interval '4 days', next_at = now() WHERE order_id = 'F1'});
	query($node, q{SELECT tegro_retry_notification(id) FROM tegro_notification WHERE order_id = 'F1'}, user => 'shopkeeper');
	ask($node, q{UPDATE tegro_notification SET waiting_since = now() - interval '4 days', next_at = now() WHERE order_id = 'F1'});
	my $row = settled('F1');
	is("$row->{state} $row->{confirmed}", 'unpaid 0', 'is looked up no more after days');
	is($row->{next_at}, undef, 'at all');
	my $before = look_ups('F1');
	is(bring($form)->{out}, 'f', 'replays at once') for 1 .. 3;
	sleep 0.5;
	is(look_ups('F1'), $before, 'cause no lookup');
	ask($node, q{UPDATE tegro_notification SET looked_up_at = now() - interval '2 minutes' WHERE order_id = 'F1'});
	pay('F1', notify_url => 'http://127.0.0.1:1/');
	is(bring($form)->{out}, 'f', 'a late one');
	$row = settled('F1');
	is("$row->{state} $row->{confirmed}", 'confirmed 1', 'does: it was paid after all');
	is(shop_row('F1'), 'paid 1', 'and is credited');
}

#
# Rights
#

{
	my $allowed = ask($node, q{
		SELECT string_agg(p.proname, ' ' ORDER BY p.proname)
		  FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid
		 WHERE d.refclassid = 'pg_extension'::regclass AND d.classid = 'pg_proc'::regclass
		   AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'tegro')
		   AND has_function_privilege('web', p.oid, 'EXECUTE')})->{out};
	is($allowed, 'tegro_notify tegro_notify', 'who brings notifications may do nothing else');
	my $tables = ask($node, q{
		SELECT count(*) FROM pg_depend d JOIN pg_class c ON c.oid = d.objid
		 WHERE d.refclassid = 'pg_extension'::regclass AND d.classid = 'pg_class'::regclass
		   AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'tegro')
		   AND c.relkind IN ('r', 'v') AND has_table_privilege('web', c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE')})->{out};
	is($tables, '0', 'and sees no table');
	foreach my $sql ('SHOW tegro.secret_key', 'SHOW tegro.credentials_file',
		q{SELECT current_setting('tegro.secret_key')})
	{
		is(query($node, $sql, user => 'web')->{sqlstate}, '42501', "nor may: $sql");
	}
	is(query($node, q{SELECT count(*) FROM pg_settings WHERE name ~ 'tegro.*key' OR setting ~ 'GB%'}, user => 'web')->{out},
		'0', 'and no key is in pg_settings');
	unlike(TegroTest::slurp($node->logfile), qr/\QGB%^&*YJni677\E/, 'nor in the log');

	# its own objects change nothing
	ask($node, 'GRANT CREATE ON SCHEMA public TO web');
	my $session = session($node, user => 'web');
	$session->query(q{CREATE TABLE public.tegro_payment_callback (shop_id text, callback text, role regrole)});
	$session->query(q{CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'mine'; END $$;
		CREATE OPERATOR public.= (LEFTARG = text, RIGHTARG = text, FUNCTION = texteq);
		SET search_path = public, pg_catalog, pg_temp; SET tegro.shop_id = 'x'; SET synchronous_commit = off});
	order('G1', 100);
	pay('G1', notify_url => 'http://127.0.0.1:1/');
	is($session->query(sprintf(q{SELECT tegro_notify('%s')}, form(order_id => 'G1')))->{out}, 't',
		"a role's own objects and settings change nothing");
	settled('G1');
	is(shop_row('G1'), 'paid 1', 'about it');
	$session->close;
	ask($node, 'DROP OWNED BY web; GRANT EXECUTE ON FUNCTION tegro_notify(text),
		tegro_notify(text, text, text, text, text, text, text, text, text) TO web');
	is(bring(form(order_id => 'G1'))->{out}, 'f', 'it was recorded');
}

#
# Side by side: callbacks that are slow or deadly, rows that are held, a backlog
#

{
	my $register = sub {
		my ($function) = @_;

		is(query($node, "SELECT tegro_on_payment('shop.$function(bigint,text,text,jsonb)')", user => 'shopkeeper')->{err},
			'', "\"$function\" is registered");
	};

	# a slow one, which waits until it is let go, holds up no lookup
	ask($node, q{SET ROLE shopkeeper; CREATE TABLE shop.let_go (); CREATE FUNCTION shop.slow(id bigint, state text, reference text, answer jsonb) RETURNS void
		LANGUAGE plpgsql AS $$ BEGIN
		WHILE NOT EXISTS (SELECT FROM shop.let_go) LOOP PERFORM pg_sleep(0.05); END LOOP;
		PERFORM shop.paid(id, state, reference, answer); END $$; RESET ROLE});
	order($_, 100) foreach 'L1', 'L2';
	pay($_, notify_url => 'http://127.0.0.1:1/') foreach 'L1', 'L2';
	$register->('slow');
	bring(form(order_id => 'L1'));
	ok(wait_until(sub { my ($row) = notifications('L1'); $row->{confirmed} }), 'one with a slow callback');
	$register->('paid');
	bring(form(order_id => 'L2'));
	ok(wait_until(sub { my ($row) = notifications('L2'); $row->{confirmed} }), 'another is looked up');
	my ($row) = notifications('L1');
	is($row->{callback_state}, 'waiting', 'meanwhile');
	ask($node, q{INSERT INTO shop.let_go DEFAULT VALUES});
	settled($_) foreach 'L1', 'L2';
	is(shop_row($_), 'paid 1', "$_ is credited") foreach 'L1', 'L2';

	# one that does not return was counted before it was called
	ask($node, q{SET ROLE shopkeeper; CREATE SEQUENCE shop.calls;
		CREATE FUNCTION shop.deadly(id bigint, state text, reference text, answer jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
		PERFORM nextval('shop.calls'); PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(3); END $$; RESET ROLE;
		GRANT pg_signal_backend TO shopkeeper; ALTER FUNCTION shop.deadly SECURITY DEFINER; ALTER FUNCTION shop.deadly OWNER TO postgres});
	order('L3', 100);
	pay('L3', notify_url => 'http://127.0.0.1:1/');
	$register->('deadly');
	bring(form(order_id => 'L3'));
	$register->('paid');
	ok(wait_until(sub { ask($node, 'SELECT last_value FROM shop.calls WHERE is_called')->{out} =~ /^([2-9]|\d\d+)$/ }),
		'a callback that ends its process is called again');
	($row) = notifications('L3');
	is("$row->{state} $row->{confirmed} $row->{callback_state} $row->{callback_message}",
		'confirmed 1 waiting it was called and did not return', 'and on record as one that did not return');
	cmp_ok($row->{failures}, '>=', 2, 'each call counts');
	ask($node, q{UPDATE tegro_notification SET callback = 'shop.paid(bigint,text,text,jsonb)' WHERE order_id = 'L3'});
	query($node, q{SELECT tegro_retry_notification(id) FROM tegro_notification WHERE order_id = 'L3'}, user => 'shopkeeper');
	settled('L3');
	is(shop_row('L3'), 'paid 1', 'one that returns is called once');

	# a row that somebody holds while its order is looked up; whoever takes it may
	# come too late, for a lookup lasts no longer than tegro.timeout
	my $holder = session($node);
	my $held;
	foreach my $turn (1 .. 10)
	{
		$held = "L4-$turn";
		order($held, 100);
		pay($held, notify_url => 'http://127.0.0.1:1/');
		$sandbox->fault('order', 'execute_then_hold', ms => 600);
		bring(form(order_id => $held));
		ok(wait_until(sub { look_ups($held) >= 1 }), 'an order is looked up');
		my $is = $holder->query(qq{BEGIN; SELECT state FROM tegro_notification WHERE order_id = '$held' FOR UPDATE});
		last if $is->{out} eq 'waiting';
		$holder->query('ROLLBACK');
	}
	order('L5', 100);
	pay('L5', notify_url => 'http://127.0.0.1:1/');
	sleep 1;
	bring(form(order_id => 'L5'));
	is(settled('L5')->{callback_state}, 'done', 'a row that is held holds up no other');
	($row) = notifications($held);
	is($row->{state}, 'waiting', 'and waits itself');
	$holder->query('COMMIT');
	$holder->close;
	$row = settled($held);
	is("$row->{state} $row->{confirmed} " . shop_row($held), 'confirmed 1 paid 1', 'until it is let go');
	is(look_ups($held), 1, 'what was seen of it meanwhile was kept');

	# a backlog of requests leaves notifications a place
	order('L6', 100);
	pay('L6', notify_url => 'http://127.0.0.1:1/');
	my $session = session($node);
	$session->query('BEGIN');
	$session->query(q{SELECT count(tegro_enqueue('createOrder', jsonb_build_object('order_id', 'M' || n, 'amount', 1, 'currency', 'RUB')))
		FROM generate_series(1, 3000) n});
	$session->query(sprintf(q{SELECT tegro_notify('%s')}, form(order_id => 'L6')));
	$session->query('COMMIT');
	$session->close;
	ok(wait_for_end($node), 'three thousand requests, and then a notification');
	settled('L6');
	cmp_ok(
		ask($node, q{SELECT count(*) FROM tegro_outbox, tegro_notification n WHERE n.order_id = 'L6'
			AND reference LIKE 'M%' AND finished_at > n.confirmed_at})->{out},
		'>=', 1000, 'which need not wait for most of them');
	is(shop_row('L6'), 'paid 1', 'and is credited');
}

#
# Crashes: whatever dies, and when, the order is credited once
#

foreach my $point ('before claim commit', 'after claim commit', 'answer read', 'before callback commit')
{
	my $number = "H-$point" =~ s/ /-/gr;
	my $mark;

	order($number, 100);
	pay($number, notify_url => 'http://127.0.0.1:1/');
	ok(wait_for_end($node), 'nothing else is on its way');
	# what the order's own callback left to do must not meet the injection point
	wait_until(sub { ask($node, q{SELECT count(*) FROM tegro_outbox WHERE next_at IS NOT NULL OR callback_at IS NOT NULL})->{out} eq '0' });
	ask($node, q{UPDATE tegro_notification SET next_at = NULL, state = 'unpaid' WHERE state = 'waiting'});
	# nor may a worker that was about to look for those
	end_worker();
	$mark = log_mark($node);
	kill_at($node, $point);
	is(bring(form(order_id => $number))->{out}, 't', "$point: the notification is taken");
	ok(killed($node), "$point: the worker is killed there");
	wait_for_restart($node, $mark);
	my $row = settled($number);
	is("$row->{state} $row->{confirmed} $row->{callback_state}", 'confirmed 1 done', "$point: it goes on");
	is(shop_row($number), 'paid 1', "$point: credited once");
	is(bring(form(order_id => $number))->{out}, 'f', "$point: and on record");
	disarm($node);
}

foreach my $how ('kill9', 'immediate')
{
	# the server dies while the provider is asked
	my $number = "I-$how";

	order($number, 100);
	pay($number, notify_url => 'http://127.0.0.1:1/');
	$sandbox->fault('order', 'execute_then_hold', ms => 900);
	is(bring(form(order_id => $number))->{out}, 't', "$how: the notification is taken");
	ok(wait_until(sub { look_ups($number) >= 1 }), "$how: and looked up");
	crash_server($node, $how);
	start_again($node);
	my $row = settled($number);
	is("$row->{state} $row->{confirmed}", 'confirmed 1', "$how: it goes on");
	is(shop_row($number), 'paid 1', "$how: credited once");
	$sandbox->clear_faults;
}

{
	# a callback from before a restart, of which nobody was told, while a request
	# waits for later
	order('I1', 100);
	pay('I1', notify_url => 'http://127.0.0.1:1/');
	is(query($node, q{SELECT tegro_on_payment('shop.answered(bigint,text,text,jsonb)')}, user => 'shopkeeper')->{err},
		'', 'a callback that may run twice');
	bring(form(order_id => 'I1'));
	is(settled('I1')->{callback_state}, 'done', 'is called');
	is(query($node, q{SELECT tegro_on_payment('shop.paid(bigint,text,text,jsonb)')}, user => 'shopkeeper')->{err}, '', 'the old one');
	my $later = ask($node, q{SELECT tegro_enqueue('createOrder', '{"order_id": "I2", "amount": 1, "currency": "RUB"}',
		deliver_after => now() + interval '1 hour')})->{out};
	ask($node, q{UPDATE tegro_notification SET callback_state = 'waiting', callback_at = now() + interval '1 second' WHERE order_id = 'I1'});
	crash_server($node, 'kill9');
	start_again($node);
	ok(wait_until(sub { my ($row) = notifications('I1'); $row->{callback_state} eq 'done' }),
		'is called after a restart, whatever else waits');
	ask($node, "SELECT tegro_cancel($later)");
}

{
	# a commit that was acknowledged is there, whatever the database says
	order('J1', 100);
	pay('J1', notify_url => 'http://127.0.0.1:1/');
	ask($node, q{ALTER SYSTEM SET tegro.delivery = off});
	ask($node, q{ALTER SYSTEM SET wal_writer_delay = '10s'});
	ask($node, q{ALTER DATABASE postgres SET synchronous_commit = off});
	reload_conf($node);
	sleep 0.5;
	is(bring(form(order_id => 'J1'))->{out}, 't', 'synchronous_commit = off: the notification is taken');
	crash_server($node, 'kill9');
	start_again($node);
	is(scalar(notifications('J1')), 1, 'and there after a crash');
	is(look_ups('J1'), 0, 'while delivery is off nothing is looked up');
	is(shop_row('J1'), 'unpaid 0', 'nor credited');

	# a copy of the database neither asks nor credits
	ask($node, q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type ~ '^tegro'});
	ask($node, q{ALTER DATABASE postgres RESET synchronous_commit});
	query($node, 'CREATE DATABASE somewhere', database => 'template1');
	$node->psql('template1', 'SELECT 1');
	my $dump = $node->data_dir . '/../copy.sql';
	system('pg_dump', '-f', $dump, '-d', $node->connstr('postgres')) == 0 or die 'pg_dump failed';
	system('psql', '-Xqb', '-o', '/dev/null', '-f', $dump, '-d', $node->connstr('somewhere'));
	is(query($node, q{SELECT count(*) FROM tegro_notification WHERE order_id = 'J1' AND state = 'waiting'},
			database => 'somewhere')->{out}, '1', 'a dump has the notification');
	is(query($node, q{SELECT count(*) FROM tegro_payment_callback}, database => 'somewhere')->{out},
		'1', 'and the callback');
	is(query($node, q{SELECT nextval('tegro_notification_id_seq') > max(id) FROM tegro_notification},
			database => 'somewhere')->{out}, 't', 'and where the numbers are');

	# the source rests meanwhile
	my $mark = log_mark($node);
	ask($node, q{CREATE TABLE set_aside AS SELECT id, next_at FROM tegro_notification WHERE next_at IS NOT NULL});
	ask($node, q{UPDATE tegro_notification SET next_at = NULL});
	ask($node, q{ALTER SYSTEM RESET tegro.delivery});
	reload_conf($node);
	sleep 0.3;
	query($node, q{SELECT tegro_retry_notification(id) FROM tegro_notification WHERE order_id = 'J1'}, database => 'somewhere');
	ok(wait_until(sub { log_since($node, $mark) =~ /notifications of tegro are set aside/ }), 'a copy sets them aside');
	sleep 1;
	is(look_ups('J1'), 0, 'and asks nobody');
	is(query($node, q{SELECT paid FROM shop.orders WHERE number = 'J1'}, database => 'somewhere')->{out},
		'f', 'nor credits anything');
	ask($node, q{UPDATE tegro_notification SET next_at = now() WHERE id IN (SELECT id FROM set_aside)});
	query($node, q{SELECT tegro_retry_notification(id) FROM tegro_notification WHERE order_id = 'J1'}, user => 'shopkeeper');
	my $row = settled('J1');
	is("$row->{state} $row->{confirmed}", 'confirmed 1', 'the source goes on');
	is(shop_row('J1'), 'paid 1', 'and credits it');
}

#
# The account
#

{
	# what the shop credited, against what the provider was paid
	my $state = $sandbox->state->{data};
	my %paid = map { $_->{payment_id} => 1 } grep { $_->{status} == 1 && !$_->{test_order} } @{ $state->{orders} };
	my @credited = split(/\n/, ask($node, q{SELECT number FROM shop.orders WHERE paid ORDER BY 1})->{out});

	is(join(' ', grep { !$paid{$_} } @credited), '', 'nothing was credited that was not paid');
	is(ask($node, q{SELECT count(*) FROM shop.orders WHERE calls > 1})->{out}, '0', 'nothing was credited twice');
	is(ask($node, q{SELECT count(*) FROM tegro_notification WHERE confirmed AND state <> 'confirmed'})->{out},
		'0', 'what was confirmed stayed so');
	cmp_ok(scalar(@credited), '>=', 15, 'and much was credited');
}

$relay->stop;
$node->stop;
done_testing();
