# The ten methods, their checks, and how answers are written; over http and
# https, with PHP as the oracle.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use SandboxTest;
use JSON::PP;
use Test::More;

my $json = JSON::PP->new->utf8->canonical;

for my $scheme (@BOTH)
{
	my $s = start_sandbox($scheme, '--page-size', 2);
	like(base($s), qr{^$scheme://127\.0\.0\.1:\d+$}, "$scheme: the ready file");
	is(slurp($s->{out}), 'tegro-sandbox: listening on ' . base($s) . "\n",
		'it says where it listens');

	# Documented shapes.
	my $result = call($s, 'balance');
	is($result->{status}, 200, 'balance');
	is( $result->{body},
		'{"type":"success","desc":"","data":{"user_id":1,"balance":'
			. '{"RUB":"1000000.00","USD":"1000.00","EUR":"1000.00",'
			. '"UAH":"0.00"}}}',
		'the balances, to the byte');
	like($result->{headers}, qr{^Content-Type: application/json\r$}mi, 'its type');

	my $shops = answer_of($s, 'shops')->{data};
	is($shops->{user_id}, 1, 'shops');
	is($shops->{shops}[0]{public_key}, $SHOP, 'the shop is there');
	is( join(' ', sort keys %{ $shops->{shops}[0] }),
		'date_added desc id name public_key status url', 'its fields');

	$result = call($s, 'createOrder',
		{ currency => 'RUB', amount => 64.18, order_id => "Order #17854 \x{e9}/\x{1f600}",
			payment_system => 10, fields => { email => 'user@site.ru' } });
	like( $result->{body},
		qr{^\{"type":"success","desc":"","data":\{"id":755555,"url":"https:\\/\\/tegro\.money\\/pay\\/complete\\/755555\\/[0-9a-f]{32}\\/"\}\}$},
		'createOrder');
	$result = call($s, 'order', { order_id => 755555 });
	my $order = $json->decode($result->{body})->{data};
	like(delete $order->{date_created}, qr/^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$/,
		'a timestamp');
	is_deeply(
		$order,
		{   id => 755555, date_payed => undef, status => 0,
			payment_system_id => 10, currency_id => 1,
			amount => '64.18000000', fee => '0.00000000',
			email => 'user@site.ru', test_order => 0,
			payment_id => "Order #17854 \x{e9}/\x{1f600}"
		},
		'order by the provider\'s number');
	is(php('echo json_encode(json_decode($argv[1], true));', $result->{body}),
		$result->{body}, 'PHP would write it the same');
	is(answer_of($s, 'order', { payment_id => "Order #17854 \x{e9}/\x{1f600}" })
			->{data}{id}, 755555, 'order by the shop\'s number');
	is(answer_of($s, 'order', { order_id => '755555' })->{data}{id}, 755555,
		'a number may come as a string');

	# A repeated order_id is another order, and the newest is found.
	call($s, 'createOrder', { currency => 'USD', amount => '5', order_id => 'twice' })
		for 1 .. 2;
	is(answer_of($s, 'order', { payment_id => 'twice' })->{data}{id}, 755557,
		'the newest of two');

	# Pages.
	my @pages = map { answer_of($s, 'orders', { page => $_ })->{data} } 1 .. 3;
	is_deeply([ map { [ map { $_->{id} } @$_ ] } @pages ],
		[ [ 755557, 755556 ], [755555], [] ], 'pages, newest first');
	is_deeply(answer_of($s, 'orders')->{data}, $pages[0], 'the first by default');
	is_deeply(answer_of($s, 'orders', { page => 9e15 })->{data}, [], 'far past the end');
	is(answer_of($s, 'orders', { page => -1 })->{desc}, 'Wrong param page', 'page -1');

	# Withdrawals.
	my %payout = (currency => 'USD', amount => '10.10', account => '4242',
		payment_id => 'payout', payment_system => 5);
	is_deeply(answer_of($s, 'createWithdrawal', \%payout)->{data},
		{ order_id => 10001, balance => { RUB => '1000000.00', USD => '989.90',
				EUR => '1000.00', UAH => '0.00' } }, 'createWithdrawal');
	answer_of($s, 'createWithdrawal', \%payout);
	is(answer_of($s, 'balance')->{data}{balance}{USD}, '979.80',
		'a repeated payment_id pays again');
	my $payout = answer_of($s, 'withdrawal', { payment_id => 'payout' })->{data};
	is( join(' ', sort keys %$payout),
		'amount currency_id date_created date_payed id payment_id status',
		'withdrawal');
	is($payout->{id}, 10002, 'the newest');
	is(answer_of($s, 'withdrawal', { order_id => 10001 })->{data}{amount},
		'10.10000000', 'withdrawal by the provider\'s number');
	is(scalar @{ answer_of($s, 'withdrawals')->{data} }, 2, 'withdrawals');
	is(answer_of($s, 'createWithdrawal', { %payout, payment_id => 17 })->{type},
		'success', 'an integer as payment_id');
	is(answer_of($s, 'withdrawal', { payment_id => '17' })->{data}{payment_id},
		'17', '… is the text');

	# Exact money: a thousand times a cent, and the rest to the cent.
	my $before = answer_of($s, 'balance')->{data}{balance}{EUR};
	answer_of($s, 'createWithdrawal', { %payout, currency => 'EUR', amount => 0.1 })
		for 1 .. 3;
	is(answer_of($s, 'balance')->{data}{balance}{EUR}, '999.70', '3 * 0.1');
	is(answer_of($s, 'createWithdrawal',
			{ %payout, currency => 'EUR', amount => '999.70000001' })->{desc},
		'Insufficient funds', 'one unit too many');
	is(answer_of($s, 'createWithdrawal',
			{ %payout, currency => 'EUR', amount => '999.69999999' })->{type},
		'success', 'one less');
	is(answer_of($s, 'balance')->{data}{balance}{EUR}, '0.00000001', 'the rest');

	# The rest of the methods.
	is_deeply([ map { "$_->{from}$_->{to}" } @{ answer_of($s, 'rates',
					{ from => 'USD' })->{data} } ], [qw(USDRUB USDEUR USDUAH)], 'rates from');
	is_deeply(answer_of($s, 'rates', { from => 'USD', to => 'RUB' })->{data},
		[ { from => 'USD', to => 'RUB', rate => '92.50000000' } ], 'rates from, to');
	is(scalar @{ answer_of($s, 'rates')->{data} }, 12, 'all rates');
	is(answer_of($s, 'modules')->{data}[0]{id}, 10, 'modules');

	# Refusals.
	my %order = (currency => 'RUB', amount => 1, order_id => 'x');
	for my $name (sort keys %order)
	{
		my %params = %order;
		delete $params{$name};
		is(answer_of($s, 'createOrder', \%params)->{desc},
			"Empty required param $name", "no $name");
	}
	for my $name (sort keys %payout)
	{
		my %params = %payout;
		delete $params{$name};
		is(answer_of($s, 'createWithdrawal', \%params)->{desc},
			"Empty required param $name", "no $name");
	}
	is(answer_of($s, 'createOrder', { %order, @$_[ 0, 1 ] })->{desc},
		"Wrong param $_->[0]", "$_->[0] = " . $json->encode([ $_->[1] ]))
		for [ currency => [1] ], [ currency => 'x' x 33 ], [ amount => 0 ], [ amount => -1 ],
		[ amount => 'much' ], [ amount => '1e3' ], [ amount => 1e9 ], [ amount => '1.' ],
		[ order_id => 'x' x 1025 ], [ order_id => [1] ], [ payment_system => 'a' ];
	is(answer_of($s, 'order')->{desc}, 'Empty required param order_id', 'neither number');
	is(answer_of($s, 'order', { order_id => 1 })->{desc}, 'Order not found', 'no such order');
	is(answer_of($s, 'order', { payment_id => 'none' })->{desc}, 'Order not found', 'nor that');
	is(answer_of($s, 'withdrawal', { order_id => 755555 })->{desc},
		'Withdrawal not found', 'an order is no withdrawal');
	is(answer_of($s, 'noSuchMethod')->{desc}, 'Unknown method', 'an unknown method');
	is(answer_of($s, 'balance', { shop_id => undef })->{desc},
		'Empty required param shop_id', 'no shop_id');
	is(answer_of($s, 'balance', { shop_id => 'other' })->{desc},
		'Wrong param shop_id', 'an unknown shop');
	is(answer_of($s, 'balance', { nonce => undef })->{desc},
		'Empty required param nonce', 'no nonce');
	is(answer_of($s, 'balance', { nonce => 'x' })->{desc}, 'Wrong nonce', 'no number');

	# Signatures: PHP signs; a byte more, and it is wrong, with status 200.
	my $body = $json->encode({ shop_id => $SHOP, nonce => next_nonce() });
	my $sign = php('echo hash_hmac("sha256", $argv[1], $argv[2]);', $body, $API_KEY);
	my @plain = ('-A', 'my-shop/1.0', '-H', "Authorization: Bearer $sign");
	$result = curl(@plain, '-d', "$body ", base($s) . '/api/balance/');
	is($result->{body}, '{"type":"error","desc":"Wrong authorization token"}',
		'the signature covers each byte');
	is($result->{status}, 200, '… and the status is 200');
	is(curl('-A', 'my-shop/1.0', '-d', $body, base($s) . '/api/balance/')->{body},
		'{"type":"error","desc":"Wrong authorization token"}', 'none is wrong, too');
	like(curl(@plain, '-d', $body, base($s) . '/api/balance/')->{body},
		qr/"success"/, 'PHP\'s signature is right');
	is(curl(@plain, '-d', $body, base($s) . '/api/balance/')->{body},
		'{"type":"error","desc":"Wrong nonce"}', 'once');
	answer_of($s, 'balance');
	like(curl(@plain, '-d', $body, base($s) . '/api/balance/')->{body},
		qr/"success"/, '... and again after another: a nonce must differ from the previous');

	# Bodies that are none.
	like(curl(signed($_), base($s) . '/api/balance/')->{body},
		qr/"desc":"Wrong request body"/, "body $_")
		for '', 'x', '[]', '1', '{"a":1', "{\"a\":\"\xff\"}", '{"a":"\ud800"}';
	like(curl(signed(qq({"shop_id":"$SHOP","nonce":12345678901234567890})),
			base($s) . '/api/balance/')->{body}, qr/Wrong nonce/,
		'an integer beyond 64 bits is a float');
	like(curl(signed('{' . '"a":[' x 3000 . ']' x 3000 . '}'),
			base($s) . '/api/balance/')->{body}, qr/Wrong request body/, 'too deep');

	# What never reaches the API.
	is(call($s, 'balance', {}, '-A', $_)->{status}, 200, "User-Agent \"$_\"")
		for '', 'curl/7.88.1', 'python-requests/2.31', 'Node/1.0', 'node-fetch/1.0', 'my node';
	for my $agent ('node', 'undici')
	{
		$result = call($s, 'balance', {}, '-A', $agent);
		is($result->{status}, 403, "User-Agent \"$agent\"");
		like($result->{body}, qr/error 1010/, '… error 1010');
		like($result->{headers}, qr{^Content-Type: text/html}mi, '… as HTML');
	}
	is(curl(signed('{}'), base($s) . '/api/balance')->{status}, 404, 'no slash');
	is(curl(signed('{}'), base($s) . '/')->{status}, 404, 'no method');
	$result = curl('-A', 'my-shop/1.0', base($s) . '/api/balance/');
	is($result->{status}, 405, 'GET');
	like($result->{headers}, qr/^Allow: POST\r$/m, '… says what is allowed');
	is(curl(signed('{"a":"' . 'x' x 1100000 . '"}'), base($s) . '/api/balance/')->{status},
		413, 'a long body');
	is(stop_sandbox($s), 0, 'it ends with status 0');
}

done_testing();
