# What the provider does not document: the defaults, and each option that
# changes one.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::Bin/lib";
use SandboxTest;
use JSON::PP;
use Test::More;
use Time::HiRes qw(time sleep);

binmode Test::More->builder->$_, ':utf8' for qw(output failure_output todo_output);
my $json = JSON::PP->new->utf8->canonical;
my %payout = (currency => 'RUB', amount => 10, account => '4242', payment_system => 5);
my %order = (currency => 'RUB', amount => 100);

# Makes a payout; returns the answer's data.
sub pay_out
{
	my ($s, $payment_id, %more) = @_;
	my $answer = answer_of($s, 'createWithdrawal', { %payout, payment_id => $payment_id, %more });
	is($answer->{type}, 'success', "payout $payment_id") or diag($answer->{desc});
	return $answer->{data};
}

sub payout_row { my ($s, $id) = @_; return answer_of($s, 'withdrawal', { payment_id => $id })->{data} }

sub roubles { return answer_of($_[0], 'balance')->{data}{balance}{RUB} }

sub settle { my ($s, %wanted) = @_; return control($s, 'POST', 'settle', \%wanted) }

subtest 'a payout is accepted, then paid' => sub {
	# one whose time does not come, however slow the machine is
	my $slow = start_sandbox('http', '--payout-delay', 600_000);
	my $made = pay_out($slow, 'a');
	is_deeply([ sort keys %$made ], [qw(balance order_id)], 'the answer');
	is($made->{balance}{RUB}, '999990.00', '... has the balance after it');
	my $row = payout_row($slow, 'a');
	is($row->{status}, 0, 'accepted');
	is($row->{date_payed}, undef, '... not paid');
	stop_sandbox($slow);

	my $s = start_sandbox('http', '--payout-delay', 700);
	my $begun = time;
	pay_out($s, 'a');
	ok(wait_until(sub { payout_row($s, 'a')->{status} == 1 }), 'paid');
	cmp_ok(time - $begun, '>=', 0.7, '... not before its time');
	like(payout_row($s, 'a')->{date_payed}, qr/^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$/, '... with a date');
	is(roubles($s), '999990.00', '... and the balance stays');
	is_deeply(payout_row($s, 'a'), answer_of($s, 'withdrawals')->{data}[0], 'the list has the same row');
	stop_sandbox($s);
};

subtest 'other results' => sub {
	for (
		[ 'failed', 2, undef, '1000000.00' ], [ 'returned', 3, qr/^\d/, '1000000.00' ],
		[ 'paid', 1, qr/^\d/, '999990.00' ], [ 77, 77, undef, '999990.00' ])
	{
		my ($result, $status, $date, $balance) = @$_;
		my $s = start_sandbox('http', '--payout-delay', 50, '--payout-result', $result);
		pay_out($s, 'a');
		ok(wait_until(sub { payout_row($s, 'a')->{status} == $status }), "$result: status $status");
		$date ? like(payout_row($s, 'a')->{date_payed}, $date, '... dated')
			: is(payout_row($s, 'a')->{date_payed}, undef, '... not dated');
		is(roubles($s), $balance, '... the balance');
		stop_sandbox($s);
	}
	my $s = start_sandbox('http', '--payout-delay', 0, '--payout-result', 'accepted',
		'--payout-statuses', '10,11,12,13', '--payout-answer', 'id');
	is_deeply(pay_out($s, 'a'), { id => 10001, status => 10 }, '--payout-answer id');
	sleep 0.2;
	is(payout_row($s, 'a')->{status}, 10, 'accepted for good');
	is(settle($s, payment_id => 'a', result => 'paid')->{data}{status}, 11, '--payout-statuses');
	stop_sandbox($s);
	$s = start_sandbox('http', '--payout-delay', 0);
	pay_out($s, 'a');
	is(payout_row($s, 'a')->{status}, 1, 'no delay');
	stop_sandbox($s);
};

subtest 'settle' => sub {
	my $s = start_sandbox('http', '--payout-delay', 3_600_000);
	my $id = pay_out($s, 'a')->{order_id};
	is(settle($s, order_id => $id, result => 'failed')->{data}{status}, 2, 'failed');
	is(roubles($s), '1000000.00', '... gives the money back');
	settle($s, order_id => $id, result => 'failed');
	is(roubles($s), '1000000.00', '... once');
	is(settle($s, payment_id => 'a', result => 'paid')->{data}{status}, 1, 'paid after all');
	is(roubles($s), '999990.00', '... takes it again');
	my $row = settle($s, payment_id => 'a', result => 'returned')->{data};
	is($row->{status}, 3, 'returned');
	like($row->{date_payed}, qr/^\d/, '... keeps its date');
	is(roubles($s), '1000000.00', '... gives it back');
	is(settle($s, payment_id => 'a', result => $_)->{data}{status}, $_, "status $_") for 4, 99, 2147483647;
	is(roubles($s), '1000000.00', '... which moves no money');

	pay_out($s, 'b');
	settle($s, payment_id => 'b', result => 'paid', ms => 300);
	is(payout_row($s, 'b')->{status}, 0, 'later');
	ok(wait_until(sub { payout_row($s, 'b')->{status} == 1 }), '... it comes');
	pay_out($s, 'c');
	settle($s, payment_id => 'c', result => 'paid', ms => 200);
	settle($s, payment_id => 'c', result => 'failed');
	sleep 0.5;
	is(payout_row($s, 'c')->{status}, 2, 'what was planned before is dropped');

	# one of several
	my @ids = map { pay_out($s, 'd')->{order_id} } 1 .. 2;
	settle($s, payment_id => 'd', result => 'paid');
	is_deeply([ map { answer_of($s, 'withdrawal', { order_id => $_ })->{data}{status} } @ids ], [ 0, 1 ],
		'by the shop\'s number: the newest');

	# forgotten with all else
	settle($s, payment_id => 'd', result => 'failed', ms => 600);
	control($s, 'POST', 'reset', {});
	pay_out($s, $_) for 'e' .. 'k';
	# each has changed as often as the one whose plan was forgotten
	for my $id ('e' .. 'k')
	{
		settle($s, payment_id => $id, result => 'accepted') for 1 .. 2;
	}
	sleep 0.7;
	is(scalar(grep { $_->{status} != 0 } @{ answer_of($s, 'withdrawals')->{data} }), 0, 'a reset drops plans');

	for (
		[ { result => 'paid' }, qr/^exactly one of/ ],
		[ { payment_id => 'e' }, qr/^"result" must be accepted, paid, failed, returned, or a number/ ],
		[ { payment_id => 'e', result => 'x' }, qr/^"result" must be/ ],
		[ { payment_id => 'e', result => -1 }, qr/^"result" must be/ ],
		[ { payment_id => 'e', result => 2147483648 }, qr/^"result" must be/ ],
		[ { payment_id => 'e', result => 'refunded' }, qr/^"result" must be/ ],
		[ { payment_id => 'e', result => 1, ms => -1 }, qr/^"ms" must be an integer/ ],
		[ { payment_id => 'e', result => 1, method => 'x' }, qr/^"method" must be/ ],
		[ { payment_id => 'e', result => 1, x => 1 }, qr/^unknown field "x"; valid fields: method, order_id/ ],
		[ { payment_id => 'none', result => 1 }, qr/^withdrawal not found/ ],
		[ { payment_id => 'none', result => 1, method => 'order' }, qr/^order not found/ ])
	{
		my $answer = settle($s, %{ $_->[0] });
		is($answer->{http_status}, 400, 'a mistake');
		like($answer->{desc}, $_->[1], "... $answer->{desc}");
	}

	# the result of one request, planned before it
	control($s, 'POST', 'fault', { method => 'createWithdrawal', action => 'settle', result => 'failed', ms => 0 });
	control($s, 'POST', 'fault', { method => 'createWithdrawal', action => 'execute_then_close' });
	is(call($s, 'createWithdrawal', { %payout, payment_id => 'planned' })->{body}, '', 'its answer is lost');
	is(payout_row($s, 'planned')->{status}, 2, '... and it fails');
	pay_out($s, 'the next');
	is(payout_row($s, 'the next')->{status}, 0, '... and only it');
	like(control($s, 'POST', 'fault', { method => 'createWithdrawal', action => 'settle', result => 'x' })->{desc},
		qr/^"result" must be/, 'a result that is none');
	stop_sandbox($s);
};

subtest 'orders: refunds, and a second payment' => sub {
	my $s = start_sandbox('http');
	answer_of($s, 'createOrder', { %order, order_id => 'o' });
	control($s, 'POST', 'pay', { payment_id => 'o' });
	is(roubles($s), '1000100.00', 'paid');
	my $row = settle($s, method => 'order', payment_id => 'o', result => 'refunded')->{data};
	is($row->{status}, 3, 'refunded');
	like($row->{date_payed}, qr/^\d/, '... keeps its date');
	is(roubles($s), '1000000.00', '... takes the money');
	is(settle($s, method => 'order', payment_id => 'o', result => $_)->{data}{status}, $_, "status $_") for 4, 42;
	my $again = control($s, 'POST', 'pay', { payment_id => 'o', again => JSON::PP::true })->{data}{order};
	is($again->{id}, 755556, 'another order is made under its number');
	is_deeply([ map { "$_->{payment_id} $_->{status}" } @{ answer_of($s, 'orders')->{data} } ], [ 'o 1', 'o 42' ],
		'... and paid');
	control($s, 'POST', 'pay', { payment_id => 'o', again => JSON::PP::true });
	is(roubles($s), '1000200.00', '... and again');
	answer_of($s, 'createOrder', { %order, order_id => 't', test => 1 });
	is(control($s, 'POST', 'pay', { payment_id => 't' })->{data}{order}{test_order}, 1, 'a test order');
	settle($s, method => 'order', payment_id => 't', result => 'refunded');
	is(roubles($s), '1000200.00', '... moves no money');
	stop_sandbox($s);
};

subtest 'fees' => sub {
	my ($url, $received) = receiver(200);
	my $s = start_sandbox('http', '--fee', '2.5', '--notify-url', $url);
	answer_of($s, 'createOrder', { %order, order_id => 'o' });
	my $row = answer_of($s, 'order', { payment_id => 'o' })->{data};
	is("$row->{amount} $row->{fee}", '100.00000000 2.50000000', 'before');
	$row = control($s, 'POST', 'pay', { payment_id => 'o' })->{data}{order};
	is("$row->{amount} $row->{fee}", '102.50000000 2.50000000', 'the paid sum is larger');
	like(slurp($received), qr/^amount=102\.50&/, '... in the notification, too');
	is(roubles($s), '1000100.00', '... and the shop gets the amount');
	stop_sandbox($s);
	$s = start_sandbox('http', '--fee', '2.5', '--fee-shown', 'apart');
	answer_of($s, 'createOrder', { %order, order_id => 'o' });
	$row = control($s, 'POST', 'pay', { payment_id => 'o' })->{data}{order};
	is("$row->{amount} $row->{fee}", '100.00000000 2.50000000', '--fee-shown apart');
	stop_sandbox($s);
};

subtest 'required params' => sub {
	my $s = start_sandbox('http', '--require',
		'createOrder.payment_system,createOrder.fields,createOrder.receipt');
	my %receipt = (receipt => { items => [ { name => 'x', count => 1, price => 100 } ] });
	my %whole = (%order, order_id => 'o', payment_system => 10, fields => { email => 'a@b.c' }, %receipt);
	is(answer_of($s, 'createOrder', \%whole)->{type}, 'success', 'a whole order');
	for ([ payment_system => 'Empty required param payment_system' ], [ fields => 'Empty required param fields' ],
		[ receipt => 'Не указан обязательный параметр receipt' ])
	{
		my %params = %whole;
		delete $params{ $_->[0] };
		is(answer_of($s, 'createOrder', \%params)->{desc}, $_->[1], "no $_->[0]");
	}
	my %params = %payout;
	delete $params{payment_system};
	is(answer_of($s, 'createWithdrawal', { %params, payment_id => 'p' })->{type}, 'success',
		'... and payouts need no payment_system');
	stop_sandbox($s);
	$s = start_sandbox('http', '--require', 'none');
	is(answer_of($s, 'createWithdrawal', { %params, payment_id => 'p' })->{type}, 'success', '--require none');
	stop_sandbox($s);
};

subtest 'receipts' => sub {
	my $s = start_sandbox('http');
	my $try = sub {
		my ($amount, @items) = @_;
		my $answer = answer_of($s, 'createOrder', { %order, amount => $amount, order_id => 'o',
			receipt => { items => [ map { { name => 'x', count => $_->[0], price => $_->[1] } } @items ] } });
		return $answer->{desc} || $answer->{type};
	};
	my $wrong = 'Стоимость товара не сходится с суммой оплаты';
	is($try->(100, [ 2, 30 ], [ 1, 40 ]), 'success', 'it adds up');
	is($try->('0.30', [ 3, 0.1 ]), 'success', '... exactly');
	is($try->('0.30', [ 1, '0.1' ], [ 1, 0.2 ]), 'success', '... as strings, too');
	is($try->(100, [ 6, 100 ]), $wrong, '600 for 100');
	is($try->(100, [ 1, 99.99 ]), $wrong, '99.99 for 100');
	is($try->(100, [ 999999999, 999999999 ]), $wrong, 'more than there is');
	is($try->(100, [ 1, -100 ], [ 1, 200 ]), 'Wrong param receipt', 'a negative price');
	is($try->(100, [ 0, 100 ], [ 1, 100 ]), 'Wrong param receipt', 'nothing of something');
	is($try->(100, [ 'x', 100 ]), 'Wrong param receipt', 'no number');
	is(answer_of($s, 'createOrder', { %order, order_id => 'o', receipt => $_ })->{desc}, 'Wrong param receipt',
		$json->encode({ receipt => $_ }))
		for 'x', [ { name => 'x', count => 1, price => 100 } ], { items => [] }, { items => 'x' }, { items => [1] },
		{ items => [ { count => 1, price => 100 } ] };
	stop_sandbox($s);
	$s = start_sandbox('http', '--bad-receipt', 'kept');
	is($try->(100, [ 6, 100 ]), 'success', '--bad-receipt kept');
	like(control($s, 'POST', 'pay', { payment_id => 'o' })->{desc}, qr/receipt does not add up/, '... cannot be paid');
	stop_sandbox($s);
};

subtest 'currencies' => sub {
	my $s = start_sandbox('http');
	is(answer_of($s, 'createOrder', { %order, currency => $_, order_id => "in $_" })->{type}, 'success', $_)
		for 'KZT', 'TON', 'KZT', 'ö';
	is(answer_of($s, 'order', { payment_id => 'in TON' })->{data}{currency_id}, 6, 'numbered as they come');
	pay_out($s, 'p', currency => 'USDT', amount => '1.5');
	is_deeply(answer_of($s, 'balance')->{data}{balance},
		{ RUB => '1000000.00', USD => '1000.00', EUR => '1000.00', UAH => '0.00', KZT => '1000.00',
			TON => '1000.00', "ö" => '1000.00', USDT => '998.50' }, 'balances');
	is_deeply(answer_of($s, 'rates', { from => 'TON' })->{data}, [], 'no rates');
	is(answer_of($s, 'createOrder', { %order, currency => "many $_", order_id => 'x' })->{type}, 'success')
		for 1 .. 248;
	is(answer_of($s, 'createOrder', { %order, currency => 'one more', order_id => 'x' })->{desc},
		'Wrong param currency', 'too many');
	control($s, 'POST', 'reset', {});
	is(answer_of($s, 'createOrder', { %order, currency => 'one more', order_id => 'x' })->{type}, 'success', 'reset');
	stop_sandbox($s);
	$s = start_sandbox('http', '--currencies', 'RUB,TON');
	is(answer_of($s, 'createOrder', { %order, order_id => 'x', currency => $_->[0] })->{desc}, $_->[1], $_->[0])
		for [ RUB => '' ], [ TON => '' ], [ USD => 'Wrong param currency' ], [ TO => 'Wrong param currency' ],
		[ 'RUB,TON' => 'Wrong param currency' ];
	stop_sandbox($s);
};

subtest 'not found' => sub {
	for ([ 'error', undef ], [ 'empty', '{"type":"success","desc":"","data":[]}' ],
		[ 'null', '{"type":"success","desc":"","data":null}' ])
	{
		my ($how, $body) = @$_;
		my $s = start_sandbox('http', '--not-found', $how);
		is(call($s, 'order', { payment_id => 'x' })->{body},
			$body // '{"type":"error","desc":"Order not found"}', "$how: an order");
		is(call($s, 'withdrawal', { order_id => 1 })->{body},
			$body // '{"type":"error","desc":"Withdrawal not found"}', "$how: a withdrawal");
		is_deeply(answer_of($s, 'orders')->{data}, [], "$how: an empty page");
		stop_sandbox($s);
	}
};

subtest 'pages that move' => sub {
	my $s = start_sandbox('http', '--page-size', 3);
	answer_of($s, 'createOrder', { %order, order_id => "o$_" }) for 1 .. 6;
	my @first = map { $_->{payment_id} } @{ answer_of($s, 'orders', { page => 1 })->{data} };
	control($s, 'POST', 'fault', { method => 'orders', action => 'push', count => 2 });
	my @second = map { $_->{payment_id} } @{ answer_of($s, 'orders', { page => 2 })->{data} };
	is("@first | @second", 'o6 o5 o4 | o5 o4 o3', 'new rows push others to the next page');
	is_deeply([ map { $_->{payment_id} } @{ answer_of($s, 'orders', { page => 3 })->{data} } ], [qw(o2 o1)], 'once');
	is_deeply([ map { $_->{payment_id} } @{ answer_of($s, 'orders')->{data} } ], [ 'pushed 8', 'pushed 7', 'o6' ],
		'the new rows');
	control($s, 'POST', 'fault', { method => 'withdrawals', action => 'push', count => 1 });
	is(scalar @{ answer_of($s, 'withdrawals')->{data} }, 1, '... of withdrawals, too');
	is(roubles($s), '1000000.00', '... which cost nothing');
	stop_sandbox($s);
};

subtest 'full rows' => sub {
	my $s = start_sandbox('http', '--rows', 'full');
	answer_of($s, 'createOrder', { %order, order_id => 'o' });
	is(answer_of($s, 'order', { payment_id => 'o' })->{data}{currency}, 'RUB', 'an order has its currency');
	pay_out($s, 'p');
	is(join(' ', sort keys %{ payout_row($s, 'p') }),
		'account amount currency currency_id date_created date_payed fee id payment_id payment_system_id status',
		'a withdrawal');
	stop_sandbox($s);
};

subtest 'user agents' => sub {
	my $s = start_sandbox('http', '--user-agents', 'named');
	for my $agent ('curl/7.88.1', 'libcurl-agent/1.0', 'python-requests/2.31', 'Python-urllib/3.11',
		'Go-http-client/1.1', 'node', 'undici', '')
	{
		my $result = call($s, 'balance', {}, '-A', $agent);
		is($result->{status}, 403, "User-Agent \"$agent\"");
		like($result->{body}, qr/error 1010/, '... error 1010');
	}
	is(call($s, 'balance')->{status}, 200, 'my-shop/1.0');
	stop_sandbox($s);
	$s = start_sandbox('http', '--user-agents', 'any');
	is(call($s, 'balance', {}, '-A', 'node')->{status}, 200, '--user-agents any');
	stop_sandbox($s);
};

subtest 'nonces' => sub {
	for ([ 'differ', 1, 0, 1, 1 ], [ 'unique', 1, 0, 1, 0 ], [ 'rising', 1, 0, 0, 0 ], [ 'any', 1, 1, 1, 1 ])
	{
		my ($rule, @expected) = @$_;
		my $s = start_sandbox('http', '--nonce', $rule);
		is_deeply([ map { answer_of($s, 'balance', { nonce => $_ })->{type} eq 'success' ? 1 : 0 } 5, 5, 4, 5 ],
			\@expected, "$rule: 5, 5, 4, 5");
		stop_sandbox($s);
	}
};

# Each way of writing JSON is fine: the signature is over the bytes.
subtest 'bodies' => sub {
	my $s = start_sandbox('http', '--require', 'none');
	my $nonce = next_nonce();
	for my $body (
		qq({"shop_id": "$SHOP", "nonce": @{[ ++$nonce ]}, "currency": "RUB", "amount": 100.00, "order_id": "1"}),
		qq( {\n\t"nonce" : @{[ ++$nonce ]},\r\n "shop_id":"$SHOP","currency":"RUB","amount":1e2,"order_id":"\x{43b}"}\n),
		qq({"amount":"100.00","order_id":7,"currency":"RUB","fields":{},"shop_id":"$SHOP","nonce":"@{[ ++$nonce ]}"}),
		qq({"amount":100,"order_id":"a\\/b","currency":"RUB","shop_id":"$SHOP","nonce":@{[ ++$nonce ]}.0}))
	{
		my $bytes = $body;
		utf8::encode($bytes);
		like(curl(signed($bytes), base($s) . '/api/createOrder/')->{body}, qr/"success"/, $body);
	}
	stop_sandbox($s);
};

subtest 'payment links' => sub {
	my $s = start_sandbox('http');
	my $links = '$signed = ["amount" => $argv[1], "currency" => "RUB", "order_id" => $argv[2], "shop_id" => $argv[3]];'
		. '$query = http_build_query($signed); $more = json_decode($argv[5], true);'
		. 'echo $query . "&" . http_build_query($more + ["sign" => md5($query . $argv[4])]);';
	my $link = sub {
		my ($order_id, $more, $key) = @_;
		return php($links, '100', $order_id, $SHOP, $key || $SECRET_KEY, $json->encode($more || {}));
	};
	my $status = sub { my ($id) = @_; return answer_of($s, 'order', { payment_id => $id })->{data}{amount} };

	is(curl(base($s) . '/pay?' . $link->('no slash'))->{status}, 200, '/pay?');
	is($status->('no slash'), '100.00000000', '... makes an order');
	is(curl(base($s) . '/pay/form/', '-d', $link->('a form', { fields => { email => 'a@b.c' } }))->{status}, 200,
		'/pay/form/');
	is(answer_of($s, 'order', { payment_id => 'a form' })->{data}{email}, 'a@b.c', '... with the other fields');
	my @parts = map { s/\+/ /gr =~ s/%([0-9A-F]{2})/chr hex $1/ger } split /&/, $link->('multipart & more');
	is(curl(base($s) . '/pay/form/', map { ('-F', $_) } @parts)->{status}, 200, '... as multipart');
	is($status->('multipart & more'), '100.00000000', '... makes an order');
	my $refused = curl(base($s) . '/pay/form/', '-d', $link->('x', {}, 'another key'));
	is($refused->{status}, 403, '... signed with another key');
	like($refused->{body}, qr/Неверная подпись/, '... says so') if utf8::decode($refused->{body});
	is(curl(base($s) . '/pay/form/?' . $link->('x'))->{status}, 405, '... by GET');
	is(curl(base($s) . '/pay/form/', '-H', 'Content-Type: text/plain', '-d', $link->('x'))->{status}, 400,
		'... as text');
	is(curl(base($s) . '/pay/form/', '--data-binary', '@' . spew("$DIR/long", 'x' x 1_100_000))->{status}, 413, '... too long');

	my %item = (name => 'x', count => 2, price => 50);
	is(curl(base($s) . '/pay/?' . $link->('receipt', { receipt => { items => [ \%item ] } }))->{status}, 200,
		'a receipt');
	my $wrong = curl(base($s) . '/pay/?' . $link->('x', { receipt => { items => [ \%item, \%item ] } }));
	is($wrong->{status}, 400, 'a receipt that does not add up');
	ok(utf8::decode($wrong->{body}) && $wrong->{body} =~ /Стоимость товара/, '... shows an error');
	is(control($s, 'GET', 'state?summary=1')->{data}{counts}{orders}, 4, 'none of these made an order');
	stop_sandbox($s);
};

# PHP reads a notification as a shop would, behind its own server.
my $hook = spew("$DIR/hook.php", <<'PHP');
<?php
$body = file_get_contents('php://input');
$type = $_SERVER['CONTENT_TYPE'];
$fields = strpos($type, 'json') !== false ? json_decode($body, true) : $_POST;
$sign = $fields['sign'];
unset($fields['sign']);
ksort($fields);
$good = md5(http_build_query($fields) . 'sandbox-secret-key') === strtolower($sign);
file_put_contents(getenv('RECEIVED'), json_encode([$type, $good, $sign, $fields]) . "\n", FILE_APPEND);
$answer = @file_get_contents(getenv('ANSWER'));
http_response_code($answer ? (int) $answer : 200);
PHP
my $port = do { my $probe = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1'); $probe->sockport };
$ENV{RECEIVED} = "$DIR/hooked";
$ENV{ANSWER} = "$DIR/hook.answer";
my $server = fork;
if (!$server)
{
	open STDERR, '>', "$DIR/hook.log";
	open STDOUT, '>&', \*STDERR;
	exec 'php', '-n', '-S', "127.0.0.1:$port", $hook;
}
wait_until(sub { IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port) }) or BAIL_OUT('no PHP server');
my $url = "http://127.0.0.1:$port/";

# What the shop has received since the last call.
sub hooked
{
	my @lines = map { $json->decode($_) } split /\n/, -e $ENV{RECEIVED} ? slurp($ENV{RECEIVED}) : '';
	unlink $ENV{RECEIVED};
	return @lines;
}

subtest 'notifications' => sub {
	my %types = (urlencoded => qr{^application/x-www-form-urlencoded$}, multipart => qr{^multipart/form-data; boundary=},
		json => qr{^application/json$});
	for my $as (sort keys %types)
	{
		my $s = start_sandbox('http', '--notify-as', $as, '--notify-url', $url);
		answer_of($s, 'createOrder', { %order, order_id => "\x{43b} & \"$as\"" });
		my $paid = control($s, 'POST', 'pay', { order_id => 755555, repeat => 2 })->{data};
		ok($paid->{notified}, "$as: accepted");
		my @got = hooked();
		is(scalar @got, 2, '... repeated');
		like($got[1][0], $types{$as}, '... the content type');
		ok($got[1][1], '... the signature');
		is_deeply($got[1][3],
			{ amount => '100.00', currency => 'RUB', order_id => "\x{43b} & \"$as\"", payment_id => '755555',
				payment_system => '10', shop_id => $SHOP, status => '1' }, '... the fields');
		stop_sandbox($s);
	}
	my $s = start_sandbox('http', '--notify-fields', 'none', '--notify-sign', 'upper', '--notify-url', $url);
	answer_of($s, 'createOrder', { %order, order_id => 'o', test => 1 });
	control($s, 'POST', 'pay', { payment_id => 'o' });
	my ($got) = hooked();
	is(join(' ', sort keys %{ $got->[3] }), 'amount currency order_id shop_id test', '--notify-fields none');
	like($got->[2], qr/^[0-9A-F]{32}$/, '--notify-sign upper');
	ok($got->[1], '... is right');
	control($s, 'POST', 'pay', { payment_id => 'o', as => 'json', fields => ['payment_system'],
		upper_case => JSON::PP::false });
	($got) = hooked();
	like($got->[0], qr/json/, 'as the call says');
	is(join(' ', sort keys %{ $got->[3] }), 'amount currency order_id payment_system shop_id test', '... its fields');
	like($got->[2], qr/^[0-9a-f]{32}$/, '... lower case');
	for ([ { as => 'xml' }, qr/^"as" must be/ ], [ { fields => ['x'] }, qr/^"fields" must be/ ],
		[ { fields => 'status' }, qr/^"fields" must be/ ], [ { upper_case => 1 }, qr/^"upper_case" must be/ ])
	{
		like(control($s, 'POST', 'pay', { payment_id => 'o', %{ $_->[0] } })->{desc}, $_->[1], 'a mistake');
	}
	stop_sandbox($s);
};

subtest 'notifications that are sent again' => sub {
	my $s = start_sandbox('http', '--notify-retry-delay', 100, '--notify-retries', 2, '--notify-url', $url);
	answer_of($s, 'createOrder', { %order, order_id => 'o' });
	spew($ENV{ANSWER}, 500);
	my $paid = control($s, 'POST', 'pay', { payment_id => 'o' })->{data};
	is("$paid->{notification_requests} $paid->{notifications_accepted} $paid->{notification_status}", '3 0 500',
		'500: sent again, and given up');
	is(scalar(hooked()), 3, '... as the shop has seen');
	spew($ENV{ANSWER}, 404);
	is(control($s, 'POST', 'pay', { payment_id => 'o' })->{data}{notification_requests}, 1, '404: not');
	unlink $ENV{ANSWER};
	is(control($s, 'POST', 'pay', { payment_id => 'o' })->{data}{notification_requests}, 1, '200: not');
	hooked();

	# it ends at once, with a notification that waits
	spew($ENV{ANSWER}, 500);
	stop_sandbox($s);
	$s = start_sandbox('http', '--notify-retry-delay', 60_000, '--notify-url', $url);
	answer_of($s, 'createOrder', { %order, order_id => 'o' });
	my $pid = fork;
	if (!$pid)
	{
		exec 'curl', '-s', '-o', '/dev/null', base($s) . '/_sandbox/pay', '-d', '{"payment_id":"o"}';
	}
	ok(wait_until(sub { -s $ENV{RECEIVED} }), 'one that waits to be sent again');
	is(stop_sandbox($s), 0, '... does not keep the sandbox from its end');
	waitpid $pid, 0;
	unlink $ENV{ANSWER};
	hooked();
};

subtest 'the request before a payment' => sub {
	my $s = start_sandbox('http', '--check', '--notify-url', $url);
	answer_of($s, 'createOrder', { %order, order_id => $_ }) for 'good', 'bad';
	is(control($s, 'POST', 'pay', { payment_id => 'good' })->{data}{order}{status}, 1, 'paid');
	my @got = hooked();
	is_deeply([ map { "$_->[1] $_->[3]{order_id} $_->[3]{status}" } @got ], [ '1 good 0', '1 good 1' ],
		'... the shop was asked, then told');
	spew($ENV{ANSWER}, 403);
	my $data = control($s, 'POST', 'pay', { payment_id => 'bad' })->{data};
	is($data->{order}{status}, 2, 'rejected');
	like($data->{notification_error}, qr/refused/, '... says why');
	is(scalar(hooked()), 1, '... and the shop is not told');
	is(roubles($s), '1000100.00', '... nor credited');
	unlink $ENV{ANSWER};
	stop_sandbox($s);
};

kill 'TERM', $server;
waitpid $server, 0;

subtest 'mistakes on the command line' => sub {
	for (
		[ '--user-agents', qr/must be reported, named or any, not "x"/ ],
		[ '--require', qr/must be createWithdrawal\.payment_system, .* or createOrder\.receipt, not "x"/ ],
		[ '--bad-receipt', qr/must be refused or kept/ ], [ '--payout-answer', qr/must be order_id or id/ ],
		[ '--payout-result', qr/must be accepted, paid, failed, returned, or a number/ ],
		[ '--payout-delay', qr/must be an integer/ ], [ '--payout-statuses', qr/must be four numbers/ ],
		[ '--rows', qr/must be published or full/ ], [ '--not-found', qr/must be error, empty or null/ ],
		[ '--fee', qr/must be a number from 0 to 100/ ], [ '--fee-shown', qr/must be in-amount or apart/ ],
		[ '--notify-as', qr/must be urlencoded, multipart or json/ ],
		[ '--notify-fields', qr/must be payment_id, payment_system or status/ ],
		[ '--notify-sign', qr/must be lower or upper/ ], [ '--notify-retries', qr/must be an integer/ ],
		[ '--notify-retry-delay', qr/must be an integer/ ])
	{
		my ($option, $says) = @$_;
		my ($status, $printed) = run_command('timeout', '20', $SANDBOX, $option, 'x');
		is($status, 2, "$option x");
		like($printed, qr/^tegro-sandbox: $option $says/, '... says what is right');
	}
	my ($status) = run_command('timeout', '20', $SANDBOX, '--payout-statuses', $_);
	is($status, 2, "--payout-statuses $_") for '1,2,3', '1,2,3,4,5', '1,,2,3', '-1,2,3,4';
};

done_testing();
