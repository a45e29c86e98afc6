#
# Whatever the network and the provider do, a call ends in one of the ways that
# are promised, told by SQLSTATE, and nothing is done twice.
#
# Three kinds of peers take part: the sandbox over https, told to misbehave,
# whose journal says what it was asked and what it carried out; sandboxes with
# certificates that are not good; and a server of this file's own, which sends
# over plain http what no HTTP library would.  That one does to a request what
# its parameter "case" names, and answers all others rightly, with their
# parameter "tag": so after each misbehaviour it can be seen that the next call
# of the same session gets the answer that belongs to it.
#
# The postmaster's environment names a proxy for everything, which must never
# be asked, and preloads a library that resolves names below provider.test.
#
# The API's address is a setting of the server, not of a session.  So one subtest
# follows another, each with one session, and sets the server as it needs it.
#
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use IO::Compress::Gzip;
use JSON::PP;
use List::Util qw(max min uniq);
use POSIX ();
use Test::More;
use TegroTest;
use Time::HiRes qw(sleep time);

my $json = JSON::PP->new->canonical;
my $ascii_json = JSON::PP->new->canonical->ascii;

#
# The server that misbehaves
#

# An answer with a right length.
sub http
{
	my ($status, $body, @headers) = @_;

	return join("\r\n", "HTTP/1.1 $status Whatever", @headers,
		'Content-Length: ' . length $body, '', $body);
}

# One whose headers are all given.
sub raw_http
{
	my ($body, @headers) = @_;

	return join("\r\n", 'HTTP/1.1 200 OK', 'Content-Type: application/json', @headers, '', $body);
}

sub chunk
{
	my ($bytes) = @_;

	return sprintf("%x\r\n%s\r\n", length $bytes, $bytes);
}

sub right_answer
{
	my ($request) = @_;

	return http(200, $json->encode(
			{ type => 'success', desc => '', data => { tag => $request->{params}{tag} } }));
}

# Writes for ever, until the other side has enough.
sub pour
{
	my ($socket, $bytes) = @_;

	$bytes x= 1 + int(65536 / length $bytes);
	1 while syswrite($socket, $bytes);
	return;
}

# Writes byte by byte.
sub drip
{
	my ($socket, $bytes) = @_;

	foreach my $byte (split(//, $bytes))
	{
		syswrite($socket, $byte) or last;
		sleep 0.2;
	}
	return;
}

my $good = '{"type":"success","desc":"","data":{"id":1}}';
my $error = '{"type":"error","desc":"No."}';
my $html = "<html>\n<head><title>502 Bad Gateway</title></head></html>";
my $forged = http(200, '{"type":"success","desc":"","data":{"tag":"forged"}}');
my $right_length = 'Content-Length: ' . length $good;
my $chunked = 'Transfer-Encoding: chunked';
my $chunks = chunk($good);
my $last_chunk = "0\r\n\r\n";

# 256 MB in 256 kB.
my $gzip_bomb = '';
{
	my $gzip = IO::Compress::Gzip->new(\$gzip_bomb);

	print {$gzip} ' ' x (1024 * 1024) foreach 1 .. 256;
	$gzip->close or die 'could not compress';
}

# What is done to a request, in place of an answer: bytes are sent, and the
# connection stays; closing() sends and closes; endless() goes on for ever.
sub closing
{
	my ($bytes) = @_;

	return sub { print { $_[0] } $bytes; };
}

sub endless
{
	my ($head, $unit) = @_;

	return sub { print { $_[0] } $head; pour($_[0], $unit); };
}

# Groups of cases that end in the same way: for a read, for createOrder.  Of each
# case, what is done to the request, and what DETAIL says.
my @unclear = (read => 'TG004', order => 'TG003');
my @groups = (
	{
		name => 'fault 34: what is no answer, or none to trust',
		@unclear,
		cases => [
			[ 'JSON that is cut', http(200, substr($good, 0, 30)), qr/not usable JSON.*HTTP 200.*The answer begins: \{"type":"suc/ ],
			[ 'a gateway\'s 502 with a page', http(502, $html), qr/HTTP 502.*The answer begins: <html> <head>/ ],
			[ 'a gateway\'s 403 with a page', http(403, '<html>error code: 1010</html>'), qr/HTTP 403.*error code: 1010/ ],
			[ 'a 500 that says success', http(500, $good), qr/It says "success", but with HTTP status 500/ ],
			[ 'a 500 that says error', http(500, $error), qr/It says "error", but with HTTP status 500/ ],
			[ 'a 404 that says success', http(404, $good), qr/HTTP status 404/ ],
			[ 'a 302 that says success', http(302, $good), qr/HTTP status 302/ ],
			[ 'success without data', http(200, '{"type":"success","desc":""}'), qr/no "data"/ ],
			[ 'success with data null', http(200, '{"type":"success","data":null}'), qr/no "data"/ ],
			[ 'nothing in a 200', http(200, ''), qr/empty/ ],
			[ 'nothing in a 204', "HTTP/1.1 204 No Content\r\n\r\n", qr/HTTP 204/ ],
			[ 'an array', http(200, "[$good]"), qr/not a JSON object/ ],
			[ 'a string', http(200, '"success"'), qr/not a JSON object/ ],
			[ 'a lonely number', http(200, '1' x 100_000), qr/The answer begins: 1111/ ],
			[ 'a type that is a number', http(200, '{"type":1,"data":{}}'), qr/no "type"/ ],
			[ 'no type', http(200, '{"data":{}}'), qr/no "type"/ ],
			[ 'NUL bytes', http(200, "{\"type\":\"success\0\",\"data\":{}}"), qr/NUL.*success\\x00/ ],
		]
	},
	{
		name => 'refusals',
		read => 'TG001',
		order => 'TG001',
		cases => [
			[ 'a 200 that says error', http(200, $error), qr/It says: "No\."/ ],
			[ 'a 400 that says error', http(400, $error), qr/It says: "No\.".*HTTP 400/ ],
			[
				'a 401 that says error', http(401, '{"type":"error","desc":"Wrong authorization token"}'),
				qr/Wrong authorization token/
			],
			[ 'an error without desc', http(200, '{"type":"error"}'), qr/no reason/ ],
			[ 'an unknown type', http(200, '{"type":"maybe","data":{}}'), qr/no reason/ ],
		]
	},
	{
		name => 'fault 35: too many requests',
		read => 'TG005',
		order => 'TG005',
		cases => [
			[ 'a 429 with a page', http(429, '<html>slow down</html>'), qr/HTTP 429/ ],
			[ 'a 429 that says error', http(429, $error), qr/HTTP 429/ ],
		]
	},
	{
		name => 'fault 36: lengths and lines that are wrong',
		@unclear,
		timeout => '3s',
		cases => [
			[ 'a length too short', raw_http($good . $forged, 'Content-Length: 20'), qr/not usable JSON/ ],
			[ 'a length too long, then the end', closing(raw_http($good, 'Content-Length: 1000')), qr/while receiving/ ],
			[ 'a length too long, then silence', raw_http($good, 'Content-Length: 1000'), qr/timed out.*while receiving/ ],
			[ 'two lengths, the first right', raw_http($good, $right_length, 'Content-Length: 20'), qr/./ ],
			[ 'two lengths, the second right', raw_http($good, 'Content-Length: 20', $right_length), qr/./ ],
			[ 'a length, then chunks', raw_http($chunks . $last_chunk, $right_length, $chunked), qr/./ ],
			[ 'chunks, then a length', raw_http($chunks . $last_chunk, $chunked, 'Content-Length: 20'), qr/./ ],
			[ 'a negative length', closing(raw_http($good, 'Content-Length: -1')), qr/./ ],
			[ 'a length that is no number', closing(raw_http($good, 'Content-Length: many')), qr/./ ],
			[ 'a length of 10^30', closing(raw_http($good, 'Content-Length: 1' . '0' x 30)), qr/./ ],
			[ 'a chunk without size', raw_http("zz\r\n$good\r\n$last_chunk", $chunked), qr/./ ],
			[ 'a chunk of 2^64', raw_http("10000000000000000\r\n$good\r\n$last_chunk", $chunked), qr/./ ],
			[ 'chunks without an end', closing(raw_http($chunks, $chunked)), qr/while receiving/ ],
			[ 'no status line', closing($good), qr/./ ],
			[ 'a status that is no number', closing("HTTP/1.1 yes\r\n\r\n$good"), qr/./ ],
			[ 'a future version of HTTP', closing("HTTP/9.9 200 OK\r\n\r\n$good"), qr/./ ],
			[ 'headers without an end', closing("HTTP/1.1 200 OK\r\n$right_length\r\n"), qr/./ ],
		]
	},
	{
		name => 'faults 38, 39: answers that are too much',
		@unclear,
		is_bounded => 1,
		cases => [
			[ 'an answer of 1 GB', endless(raw_http('', 'Content-Length: 1073741824'), 'x'), qr/too large/ ],
			[ 'chunks for ever', endless(raw_http('', $chunked), $chunks), qr/too large/ ],
			[ 'a body for ever', endless(raw_http(''), 'x'), qr/too large/ ],
			[ 'headers for ever', endless("HTTP/1.1 200 OK\r\n", "X-Header: more\r\n"), qr/too large|header/i ],
			[ 'a header for ever', endless("HTTP/1.1 200 OK\r\nX-Header: ", 'x'), qr/too large|header/i ],
			[ 'a status line for ever', endless('HTTP/1.1 200 ', 'OK'), qr/too large|header/i ],
			[ '100 Continue for ever', endless('', "HTTP/1.1 100 Continue\r\n\r\n"), qr/too large|header/i ],
			[ 'trailers for ever', endless(raw_http("0\r\n", $chunked), "X-Trailer: more\r\n"), qr/./ ],
			[ '1 byte at a time', sub { drip($_[0], http(200, $good)); }, qr/timed out.*while receiving/ ],
			# nobody asked for compression
			[ 'a gzip bomb', http(200, $gzip_bomb, 'Content-Encoding: gzip'), qr/./ ],
			[ 'a gzip bomb, the transfer\'s', closing(raw_http($gzip_bomb, 'Transfer-Encoding: gzip')), qr/./ ],
			[
				'a gzip bomb, the transfer\'s, in a chunk',
				closing(raw_http(chunk($gzip_bomb) . $last_chunk, 'Transfer-Encoding: gzip, chunked')), qr/./
			],
			[
				'nesting 100,000 deep', http(200, '{"type":"success","data":' . '[' x 100_000 . ']' x 100_000 . '}'),
				qr/not usable JSON/
			],
			[ 'nesting without an end', http(200, '{"a":' x 100_000), qr/not usable JSON/ ],
		]
	},
	{
		name => 'fault 40: text that can\'t be',
		@unclear,
		cases => [
			[
				'bytes that are not UTF-8', http(200, "{\"type\":\"success\",\"desc\":\"\xff\xfe\",\"data\":{}}"),
				qr/invalid byte sequence.*The answer begins: \{"type":"success","desc":"\\xff\\xfe"/
			],
			[
				'half a character', http(200, "{\"type\":\"success\",\"data\":\"\xd0"),
				qr/invalid byte sequence.*The answer begins: .*\\xd0/
			],
			[
				'an overlong slash', http(200, "{\"type\":\"success\",\"data\":\"\xc0\xaf\"}"),
				qr/invalid byte sequence.*The answer begins: .*\\xc0\\xaf/
			],
			[
				'\u0000', http(200, '{"type":"success","data":"\u0000"}'),
				qr/unsupported Unicode.*The answer begins: .*\\u0000/
			],
			[
				'a lone high surrogate', http(200, '{"type":"success","data":"\ud83d"}'),
				qr/not usable JSON.*The answer begins: .*\\ud83d/
			],
			[
				'a lone low surrogate', http(200, '{"type":"success","data":"\ude00"}'),
				qr/not usable JSON.*The answer begins: .*\\ude00/
			],
			[ 'a number that no type holds', http(200, '{"type":"success","data":1e999999}'), qr/not usable JSON/ ],
		]
	});

# What is an answer, although an odd one: case, what is sent, "data" as it is.
my @odd_answers = (
	[ '100 Continue before it', "HTTP/1.1 100 Continue\r\n\r\n" . http(200, $good), '{"id": 1}' ],
	[ '103 Early Hints before it', "HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n" . http(200, $good), '{"id": 1}' ],
	[ 'a 201', http(201, $good), '{"id": 1}' ],
	[ 'chunks of one byte', raw_http(join('', map { chunk($_) } split(//, $good)) . $last_chunk, $chunked), '{"id": 1}' ],
	[ 'the end of the connection as its end', closing(raw_http($good, 'Connection: close')), '{"id": 1}' ],
	[ 'no Content-Type', "HTTP/1.1 200 OK\r\n$right_length\r\n\r\n$good", '{"id": 1}' ],
	[ 'blanks around it', http(200, " \r\n\t$good\r\n "), '{"id": 1}' ],
	[ 'an id that is a string', http(200, '{"type":"success","data":{"id":"755555"}}'), '{"id": "755555"}' ],
	[ 'an id of 2^63', http(200, '{"type":"success","data":{"id":9223372036854775808}}'), '{"id": 9223372036854775808}' ],
	[ 'a negative id with an exponent', http(200, '{"type":"success","data":{"id":-1E-5}}'), '{"id": -0.00001}' ],
	[ 'keys given twice', http(200, '{"type":"success","data":{"id":1},"data":{"id":3,"id":4}}'), '{"id": 4}' ],
	[ 'characters beyond the BMP', http(200, '{"type":"success","data":"\ud83d\ude00"}'), "\"\xf0\x9f\x98\x80\"" ],
	[ 'data that is false', http(200, '{"type":"success","data":false}'), 'false' ],
	[ 'data that is empty', http(200, '{"type":"success","data":[]}'), '[]' ]);

my %cases = map { $_->[0] => $_->[1] } @odd_answers, map { @{ $_->{cases} } } @groups;

# What quotes its request: case => code that makes the answer.
my %echoes = (
	'the desc of an error' => sub { return http(200, $json->encode({ type => 'error', desc => "no: $_[0]" })); },
	'a page' => sub { return http(502, "<html>$_[0]</html>"); },
	'a page, cut within it' => sub { return http(502, 'x' x 170 . $_[0]); },
	'the data of a failed success' => sub { return http(500, $json->encode({ type => 'success', data => $_[0] })); },
	'the status line' => sub { return "HTTP/1.1 $_[0]\r\nContent-Length: 0\r\n\r\n"; },
	'a header' => sub { return "HTTP/1.1 200 OK\r\n$_[0]\r\nContent-Length: 0\r\n\r\n"; },
	'a length' => sub { return "HTTP/1.1 200 OK\r\nContent-Length: $_[0]\r\n\r\n"; },
	'a place to go' => sub { return "HTTP/1.1 307 Go\r\nLocation: ftp://$_[0]/\r\nContent-Length: 0\r\n\r\n"; },
	'no answer at all' => sub { return "$_[0]\r\n\r\n"; });

# Another place, where nothing may ever arrive.
my $elsewhere = raw_server(sub { read_request($_[0]); });

my $hostile = raw_server(
	sub {
		my ($socket) = @_;

		$socket->autoflush(1);
		while (my $request = read_request($socket))
		{
			my $case = $request->{params}{case} // '';

			if (my $what = $cases{$case})
			{
				return $what->($socket) if ref $what;
				print {$socket} $what;
			}
			elsif (my $echo = $echoes{$case})
			{
				my ($authorization) = $request->{head} =~ /^Authorization: Bearer (\S+)/m;

				print {$socket} $echo->($authorization);
				return if $case eq 'no answer at all';
			}
			elsif ($case =~ /^redirect (\d+)$/)
			{
				print {$socket} http($1, '', 'Location: http://127.0.0.1:' . $elsewhere->port . '/api/balance/');
			}
			elsif ($case eq 'text')
			{
				print {$socket} http(200, $ascii_json->encode({ type => 'error', desc => $request->{params}{text} }));
			}
			elsif ($case eq 'bytes')
			{
				print {$socket} http($request->{params}{status}, pack('H*', $request->{params}{hex}));
			}
			elsif ($case eq 'a million keys')
			{
				print {$socket} http(200, '{"type":"success","data":{' . join(',', map { "\"k$_\":$_" } 1 .. 1_000_000) . '}}');
			}
			elsif ($case eq 'one more answer than requests')
			{
				print {$socket} right_answer($request);
				sleep 0.1;
				print {$socket} $forged;
				TegroTest::raw_note(forged => 1);
			}
			elsif ($case eq 'closed after the answer')
			{
				print {$socket} right_answer($request);
				close($socket);
				TegroTest::raw_note(closed => 1);
				return;
			}
			else
			{
				print {$socket} right_answer($request);
			}
		}
	});

# A proxy that must never be asked.
my $proxy = raw_server(sub { read_request($_[0]); });
my $proxy_url = 'http://127.0.0.1:' . $proxy->port;

my $certificates = certificates(qw(good expired wrong_host self_signed));
my %tls = (certificates => $certificates);
my $sandbox = sandbox(%tls);
my $node = cluster(
	'main', $sandbox, %tls,
	environment => {
		preload_library(),
		LOCALHOST_IS => '192.0.2.1',
		map { $_ => $proxy_url } qw(http_proxy https_proxy HTTPS_PROXY all_proxy ALL_PROXY)
	});

#
# Asking
#

my $tag = 0;

# What a method answers in a session, with parameters.
sub ask
{
	my ($session, $method, %params) = @_;
	my $text = $ascii_json->encode(\%params) =~ s/'/''/gr;

	if ($method eq 'createOrder')
	{
		return $session->query("SELECT tegro_create_order('$text')");
	}
	return $session->query("SELECT tegro_call('$method', '$text')");
}

my $order_count = 0;

# Parameters of an order, with a number that no other has.
sub new_order
{
	return (order_id => 'order ' . ++$order_count, currency => 'RUB', amount => 1, @_);
}

# What only the server can be set to, with what it has unless a test says
# otherwise; and what it has now.
my %usual = (
	'tegro.api_url' => $sandbox->api_url,
	'tegro.ca_file' => $certificates->{ca},
	'tegro.max_answer_size' => '1MB');
my %current = %usual;

# Sets what a session's calls go by: for the session, or else for the server.
sub set
{
	my ($session, %settings) = @_;
	my %server = map { ($_ => delete $settings{$_}) } grep { exists $usual{$_} } keys %settings;

	foreach my $name (keys %server)
	{
		delete $server{$name} if $server{$name} eq $current{$name};
	}
	if (%server)
	{
		set_server($node, \%server, $session);
		%current = (%current, %server);
	}

	my $result = $session->query(
		join('; ', map { "SET $_ = '$settings{$_}'" } sort keys %settings));
	die $result->{err} if $result->{err};
	return;
}

# A session that asks a server, by default the sandbox.
sub new_session
{
	my (%settings) = @_;
	my $session = session($node);

	set($session, %usual, %settings);
	return $session;
}

sub hostile_session
{
	return new_session(
		'tegro.api_url' => $hostile->url,
		'tegro.read_retries' => 0,
		'tegro.timeout' => '5s',
		@_);
}

# The next call of a session gets its own answer from the hostile server.
sub goes_on
{
	my ($session, $what) = @_;
	my $result = ask($session, 'balance', tag => ++$tag);

	is(eval { $json->decode($result->{out})->{data}{tag} }, $tag, "$what: the next call gets its own answer")
	  or diag($result->{err});
	return;
}

# Waits until the hostile server has noted something once more than it had.
sub wait_for_note
{
	my ($what, $before) = @_;

	wait_until(sub { return $before < grep { $_->{$what} } $hostile->notes; }) or die "never $what";
	return;
}

# How often an order's request arrived at the hostile server.
sub arrivals
{
	my ($order_id) = @_;

	return scalar(grep { ($_->{params}{order_id} // '') eq $order_id } $hostile->requests);
}

# Lines of the sandbox's journal that concern an order.
sub journal_of
{
	my ($order_id, %wanted) = @_;

	return grep { ($_->{params}{order_id} // '') eq $order_id } $sandbox->journal(%wanted);
}

sub is_bounded
{
	my ($session, $before_kb, $what) = @_;

	# the cap, and what else a call may take
	cmp_ok(vm_hwm_kb($session->pid) - $before_kb, '<', (1 + 16) * 1024, "$what: memory is bounded");
	return;
}

# A case ends as its group does, and the session goes on.
sub is_survived
{
	my ($session, $group, $case) = @_;
	my ($name, undef, $detail) = @$case;

	foreach my $method (qw(balance createOrder))
	{
		my %order = new_order(case => $name);
		my $result = ask($session, $method, %order);
		my $state = $method eq 'balance' ? $group->{read} : $group->{order};

		is($result->{sqlstate}, $state, "$name: $method ends with $state") or diag($result->{out} || $result->{err});
		like($result->{detail}, $detail, "$name: the detail says why");
		like($result->{hint}, qr/Look it up with tegro_order\(payment_id => '\Q$order{order_id}\E'\)/,
			"$name: the hint says how to find out")
		  if $state eq 'TG003';
		is(arrivals($order{order_id}), 1, "$name: $method was sent once");
		goes_on($session, $name);
	}
	return;
}

#
# A connection that is lost
#

my @fatal = qw(close_before_read close_after_read execute_then_close reset);
my %is_executed = (execute_then_close => 1, reset => 1);

# the fault that it is, on a new connection, and on one that was kept alive
my %fault_new = map { ($_ => $is_executed{$_} ? 26 : 25) } @fatal;
my %fault_alive = map { ($_ => $is_executed{$_} ? 27 : 25) } @fatal;

foreach my $action (@fatal)
{
	subtest "fault $fault_new{$action}: $action, on a new connection" => sub {
		my $session = new_session();
		my %order = new_order();

		$sandbox->begin;
		$sandbox->fault('createOrder', $action);
		my $result = ask($session, 'createOrder', %order);
		is($result->{sqlstate}, 'TG003', 'the outcome of createOrder is unknown');
		is(scalar($sandbox->journal(method => 'createOrder')), 1, 'it was sent once');
		is(scalar($sandbox->journal(executed => 1)), $is_executed{$action} // 0,
			'it was executed as often as the sandbox meant to');
		like($result->{hint}, qr/tegro_order\(payment_id => '\Q$order{order_id}\E'\)/, 'the hint says how to find out');
		$result = $session->query("SELECT tegro_order(payment_id => '$order{order_id}')");
		is($result->{sqlstate}, $is_executed{$action} ? '' : 'TG001', 'and that tells what happened');

		$sandbox->fault('orders', $action);
		$result = ask($session, 'orders');
		is($result->{sqlstate}, '', 'a read is repeated') or diag($result->{err});
		my @nonces = map { $_->{params}{nonce} // $_->{nonce} } $sandbox->journal(method => 'orders');
		is(scalar(@nonces), 2, 'and arrived twice');
		is(scalar(uniq(grep { defined } @nonces)), scalar(grep { defined } @nonces), 'with a fresh nonce');
		$session->close;
	};

	subtest "fault $fault_alive{$action}: $action, on a connection that was kept alive" => sub {
		my $session = new_session();
		my %order = new_order();

		$sandbox->begin;
		is(ask($session, 'shops')->{sqlstate}, '', 'the first call is answered');
		$sandbox->fault('createOrder', $action);
		my $result = ask($session, 'createOrder', %order);
		my @lines = $sandbox->journal(method => 'createOrder');
		is($lines[0]{request}, 2, 'createOrder came second on the connection');
		is($result->{sqlstate}, 'TG003', 'its outcome is unknown');
		is(scalar(@lines), 1, 'it was sent once');
		is(scalar($sandbox->journal(executed => 1)), $is_executed{$action} // 0,
			'it was executed as often as the sandbox meant to');

		is(ask($session, 'shops')->{sqlstate}, '', 'a call in between is answered');
		$sandbox->fault('orders', $action);
		$result = ask($session, 'orders');
		is($result->{sqlstate}, '', 'a read is repeated') or diag($result->{err});
		@lines = $sandbox->journal(method => 'orders');
		is_deeply([ map { $_->{request} > 1 ? 'kept alive' : 'new' } @lines ], [ 'kept alive', 'new' ],
			'once on the connection that was kept alive, once on a new one');
		isnt($lines[0]{nonce} // 'none', $lines[1]{nonce}, 'with a fresh nonce');
		$session->close;
	};

	subtest "fault $fault_alive{$action}: $action, on one of eight connections of a batch" => sub {
		my $session = new_session('tegro.max_concurrency' => 8);
		my $size = 24;
		my $held_ms = 400;

		# eight are held until all connections stand; the later ones come on them
		foreach my $skipped (1, 9)
		{
			$sandbox->begin;
			$sandbox->fault('createOrder', 'hold', ms => $held_ms, times => 8);
			$sandbox->fault('createOrder', $action, skip => $skipped);
			my $result = $session->query(
				"SELECT coalesce(sqlstate, 'answered') FROM tegro_batch('createOrder', "
				  . "ARRAY(SELECT jsonb_build_object('order_id', 'batch ' || i, 'currency', 'RUB', 'amount', 1) "
				  . "FROM generate_series(1, $size) i)) ORDER BY position");
			my @states = split(/\n/, $result->{out});
			is_deeply([ sort @states ], [ 'TG003', ('answered') x ($size - 1) ],
				'one outcome is unknown, the others answered') or diag($result->{out}, $result->{err});

			my @lines = $sandbox->journal(method => 'createOrder');
			my ($faulty) = grep { ($_->{fault} // '') eq $action } @lines;
			if ($faulty->{request} == 1 && $held_ms < 3000)
			{
				# the machine was so slow that not all stood in time
				$held_ms *= 3;
				redo;
			}
			cmp_ok($faulty->{request}, '>', 1, 'the unknown one was on a connection that was kept alive');
			# what is held has two lines
			my %sent = map { ("$_->{connection} $_->{request}" => $_->{params} ? $_->{params}{order_id} : '') } @lines;
			is(scalar(keys %sent), $size, 'as many requests arrived as there are calls');
			is(scalar(grep { $_->{executed} } @lines), $size - 1 + ($is_executed{$action} // 0),
				'it was executed as often as the sandbox meant to');
			is(scalar(uniq(values %sent)), $size, 'no order was sent twice');
			my ($unknown) = grep { $states[ $_ - 1 ] eq 'TG003' } 1 .. $size;
			is($faulty->{params}{order_id}, "batch $unknown", 'the unknown one is the one that was killed')
			  if $faulty->{params};
		}
		$session->close;
	};
}

subtest 'a connection that the server closed while idle costs nothing' => sub {
	my $session = hostile_session();
	my %order = new_order(tag => 'second');
	my $before = $hostile->connections;

	ask($session, 'balance', case => 'closed after the answer');
	wait_for_note('closed', 0);
	my $result = ask($session, 'createOrder', %order);
	like($result->{out}, qr/"tag": "second"/, 'createOrder is answered') or diag($result->{err});
	is($hostile->connections - $before, 2, 'on a new connection');
	is(arrivals($order{order_id}), 1, 'it was sent once');
	$session->close;
};

subtest 'an answer that nobody asked for is nobody\'s answer' => sub {
	my $session = hostile_session();

	foreach my $method (qw(balance createOrder))
	{
		my $before = grep { $_->{forged} } $hostile->notes;

		ask($session, 'balance', case => 'one more answer than requests');
		wait_for_note('forged', $before);
		my $result = ask($session, $method, new_order(tag => 'own'));
		like($result->{out}, qr/"tag": "own"/, "$method gets its own answer") or diag($result->{err});
	}
	goes_on($session, 'after it');
	$session->close;
};

subtest 'fault 28: an answer that comes after the timeout is nobody\'s answer' => sub {
	my $session = new_session();
	my %order = new_order();

	# on a connection that stands, so that the time is not over before it is sent
	is(ask($session, 'shops')->{sqlstate}, '', 'a call');
	set($session, 'tegro.timeout' => '1s');
	$sandbox->begin;
	$sandbox->fault('createOrder', 'execute_then_hold', ms => 2000);
	is(ask($session, 'createOrder', %order)->{sqlstate}, 'TG003', 'the outcome of createOrder is unknown');
	sleep 1.5;
	set($session, 'tegro.timeout' => '10s');
	my $result = ask($session, 'order', payment_id => $order{order_id});
	like($result->{out}, qr/"payment_id": "\Q$order{order_id}\E"/, 'the lookup gets its own answer') or diag($result->{err});
	is(scalar(journal_of($order{order_id})), 1, 'createOrder was sent once');
	is(scalar(journal_of($order{order_id}, executed => 1)), 1, 'it was executed once');

	set($session, 'tegro.timeout' => '1s');
	$sandbox->fault('orders', 'execute_then_hold', ms => 2000);
	is(ask($session, 'orders')->{sqlstate}, 'TG004', 'a read ends without an answer');
	sleep 1.5;
	set($session, 'tegro.timeout' => '10s');
	like(ask($session, 'shops')->{out}, qr/"public_key"/, 'the next call gets its own answer');
	$session->close;
};

subtest 'an order that is executed late is found late' => sub {
	my $session = new_session();
	my %order = new_order();

	$sandbox->begin;
	$sandbox->fault('createOrder', 'execute_later', ms => 3000);
	is(ask($session, 'createOrder', %order)->{sqlstate}, 'TG003', 'the outcome of createOrder is unknown');
	is(ask($session, 'order', payment_id => $order{order_id})->{sqlstate}, 'TG001', 'it is not there at first');
	ok(wait_until(sub { return ask($session, 'order', payment_id => $order{order_id})->{sqlstate} eq ''; }),
		'then it is');
	is(scalar(journal_of($order{order_id}, executed => 1)), 1, 'it was executed once');
	$session->close;
};

subtest 'the calls of a batch get their own answers, whatever befalls the others' => sub {
	my $session = new_session('tegro.max_concurrency' => 16, 'tegro.read_retries' => 0);
	my $size = 200;

	$sandbox->begin;
	$session->query("SELECT count(*) FROM tegro_batch('createOrder', ARRAY(SELECT jsonb_build_object("
		  . "'order_id', 'many ' || i, 'currency', 'RUB', 'amount', 1) FROM generate_series(1, $size) i))");
	foreach my $action (qw(reset close_after_read close_before_read execute_then_close))
	{
		$sandbox->fault('order', $action, skip => 9);
		$sandbox->fault('order', 'cut', skip => 9, bytes => 20);
		$sandbox->fault('order', 'answer', skip => 9, status => 502, body => $html);
		$sandbox->fault('order', 'hold', skip => 9, ms => 100);
	}
	my $result = $session->query(<<"SQL");
SELECT count(*),
	count(*) FILTER (WHERE answer #>> '{data,payment_id}' = 'many ' || position),
	string_agg(DISTINCT sqlstate, ' ')
FROM tegro_batch('order', ARRAY(
	SELECT jsonb_build_object('payment_id', 'many ' || i) FROM generate_series(1, $size) i))
SQL
	is($result->{out}, $size . '|' . ($size - 12) . '|TG004', 'each answer stands beside its own position');
	$session->close;
};

#
# Repeats
#

subtest 'reads are repeated as often as tegro.read_retries says, with growing pauses' => sub {
	foreach my $retries (0, 1, 3)
	{
		my $session = new_session('tegro.read_retries' => $retries);

		foreach my $fault ([ 'close_after_read' ], [ 'answer', status => 503, body => $html ], [ 'answer', status => 429 ])
		{
			my ($action, %more) = @$fault;
			my $name = join(' ', $action, $more{status} // ()) . ", $retries repeats";

			$sandbox->begin;
			$sandbox->fault('orders', $action, times => -1, %more);
			my $result = ask($session, 'orders');
			is($result->{sqlstate}, ($more{status} // 0) == 429 ? 'TG005' : 'TG004', "$name: then it ends");
			my @lines = $sandbox->journal(method => 'orders');
			is(scalar(@lines), 1 + $retries, "$name: it was sent so often");
			is(scalar(uniq(map { $_->{params}{nonce} } @lines)), 1 + $retries, "$name: with a nonce each");
			foreach my $i (1 .. $retries)
			{
				my ($from, $until) = map { $_->{time} } @lines[ $i - 1, $i ];

				# 100 ms, doubling, by half more or less; the clocks are two
				cmp_ok(1000 * ($until - $from), '>=', 50 * 2**($i - 1) - 3, "$name: pause $i is long enough");
				cmp_ok(own_ms($from, $until), '<=', 150 * 2**($i - 1) + 1000, "$name: pause $i is no longer");
			}
		}
		$session->close;
	}
};

subtest 'repeats stay within tegro.timeout' => sub {
	my $session = new_session('tegro.read_retries' => 100, 'tegro.timeout' => '3s');

	$sandbox->begin;
	$sandbox->fault('orders', 'close_after_read', times => -1);
	my $result = ask($session, 'orders');
	is($result->{sqlstate}, 'TG004', 'then it ends');
	cmp_ok(own_ms($result), '<=', 4000, 'in time');
	cmp_ok(scalar($sandbox->journal(method => 'orders')), '>=', 3, 'after some repeats');
	cmp_ok(scalar($sandbox->journal(method => 'orders')), '<=', 6, 'after few repeats');
	$session->close;
};

subtest 'what may have changed something is not repeated' => sub {
	my $session = new_session('tegro.read_retries' => 100);

	foreach my $fault (
		(map { [$_] } @fatal),
		[ 'cut', bytes => 10 ],
		[ 'answer', status => 500, body => $error ],
		[ 'answer', status => 503, body => $html ],
		[ 'answer', status => 429, body => $html ])
	{
		my ($action, %more) = @$fault;

		# createOrder, and one that this version does not know
		foreach my $method (qw(createOrder createRefund))
		{
			my %order = new_order();

			$sandbox->begin;
			$sandbox->fault($method eq 'createOrder' ? $method : '*', $action, times => -1, %more);
			my $result = ask($session, $method, %order);
			is($result->{sqlstate}, ($more{status} // 0) == 429 ? 'TG005' : 'TG003', "$method, $action: it ends");
			is(scalar($sandbox->journal), 1, "$method, $action: after one request");
		}
	}
	$session->close;
};

subtest 'what was not sent is repeated, createOrder too' => sub {
	my $session = new_session('tegro.read_retries' => 100);

	foreach my $method (qw(balance createOrder))
	{
		# a port where nobody listens, until somebody does
		my $listener = TegroTest::listener();
		my $port = $listener->sockport;
		close($listener);
		set($session, 'tegro.api_url' => "http://127.0.0.1:$port/api");
		my $text = $json->encode({ new_order(tag => 'late') });
		$session->send("SELECT tegro_call('$method', '$text')");
		sleep 0.4;
		my $late = raw_server(
			sub {
				my $request = read_request($_[0]);
				print { $_[0] } right_answer($request) if $request;
			},
			port => $port);
		my $result = $session->wait;
		like($result->{out}, qr/"tag": "late"/, "$method is answered once somebody listens") or diag($result->{err});
		is(scalar($late->requests), 1, "$method was sent once");
		$late->stop;
	}
	$session->close;
};

#
# Answers
#

subtest 'fault 35: Retry-After is honoured as far as there is time' => sub {
	my $session = new_session('tegro.timeout' => '8s');
	my $date = sub { return POSIX::strftime('%a, %d %b %Y %H:%M:%S GMT', gmtime(time + $_[0])); };

	# value, which may be code; pause before the repeat, at least and at most; how
	# long createOrder is told to wait
	foreach my $kind (
		[ 'seconds', '2', 2, 4, qr/wait 2 s/ ],
		[ 'a date', sub { return $date->(5); }, 2, 7, qr/wait [2-5] s/ ],
		[ 'a date that is over', sub { return $date->(-3600); }, 0, 1.5, qr/does not say/ ],
		[ 'garbage', 'soon', 0, 1.5, qr/does not say/ ],
		[ 'nothing', '', 0, 1.5, qr/does not say/ ],
		[ 'a negative number', '-5', 0, 1.5, qr/does not say/ ],
		[ 'a number beyond all', '1' . '0' x 30, 0, 1.5, qr/does not say/ ])
	{
		my ($name, $value, $least, $most, $detail) = @$kind;
		my $headers = sub { return { 'Retry-After' => ref $value ? $value->() : $value }; };

		$headers = sub { return {}; } if $name eq 'nothing';
		$sandbox->begin;
		$sandbox->fault('orders', 'answer', status => 429, headers => $headers->());
		my $result = ask($session, 'orders');
		is($result->{sqlstate}, '', "$name: a read is repeated") or diag($result->{err});
		my @lines = $sandbox->journal(method => 'orders');
		is(scalar(@lines), 2, "$name: once");
		my ($from, $until) = map { $_->{time} } @lines;
		cmp_ok($until - $from, '>=', $least, "$name: not too early");
		cmp_ok(own_ms($from, $until) / 1000, '<=', $most, "$name: not too late");

		$sandbox->fault('createOrder', 'answer', status => 429, headers => $headers->());
		$result = ask($session, 'createOrder', new_order());
		is($result->{sqlstate}, 'TG005', "$name: createOrder is told");
		like($result->{detail}, $detail, "$name: and for how long");
		is(scalar($sandbox->journal(method => 'createOrder')), 1, "$name: it was sent once");
	}

	# more than there is time for
	foreach my $value (60, 1_000_000_000, $date->(3600), $date->(10**9))
	{
		$sandbox->begin;
		$sandbox->fault('*', 'answer', status => 429, headers => { 'Retry-After' => "$value" }, times => 2);
		foreach my $method (qw(orders createOrder))
		{
			my $result = ask($session, $method, new_order());
			is($result->{sqlstate}, 'TG005', "$value: $method ends") or diag($result->{err});
			cmp_ok(own_ms($result), '<=', 3000, "$value: $method ends at once");
			like($result->{detail}, qr/wait \d+ s/, "$value: $method tells for how long");
		}
		is(scalar($sandbox->journal), 2, "$value: nothing was repeated");
	}
	$session->close;
};

foreach my $group (@groups)
{
	subtest $group->{name} => sub {
		my $session = hostile_session('tegro.timeout' => $group->{timeout} // '5s');

		foreach my $case (@{ $group->{cases} })
		{
			if ($group->{is_bounded})
			{
				# the most that a process ever had: each case needs one of its own
				$session->close;
				$session = hostile_session();
				goes_on($session, 'before');
			}
			my $before_kb = vm_hwm_kb($session->pid);
			is_survived($session, $group, $case);
			is_bounded($session, $before_kb, $case->[0]) if $group->{is_bounded};
		}
		$session->close;
	};
}

subtest 'the hint for a 403 names what a gateway may dislike' => sub {
	my $session = hostile_session();
	my $result = ask($session, 'balance', case => 'a gateway\'s 403 with a page');

	like($result->{hint}, qr/tegro\.user_agent/, 'tegro.user_agent');
	$session->close;
};

subtest 'fault 39: an answer of a million keys is a value, where so much is allowed' => sub {
	my $session = hostile_session('tegro.timeout' => '30s');

	is(ask($session, 'balance', case => 'a million keys')->{sqlstate}, 'TG004', 'by default it is too large');
	set($session, 'tegro.max_answer_size' => '64MB');
	my $result = $session->query(
		"SELECT count(*) FROM jsonb_object_keys(tegro_call('balance', '{\"case\": \"a million keys\"}') -> 'data')");
	is($result->{out}, 1_000_000, 'it is there with all its keys') or diag($result->{err});
	goes_on($session, 'after it');
	$session->close;
};

subtest 'fault 39: odd answers are values' => sub {
	my $session = hostile_session();

	foreach my $case (@odd_answers)
	{
		my ($name, undef, $data) = @$case;
		my $result = $session->query("SELECT tegro_call('balance', '{\"case\": \"$name\"}') -> 'data'");

		is($result->{out}, $data, $name) or diag($result->{err});
		goes_on($session, $name);
	}
	$session->close;
};

subtest 'fault 40: a database in LATIN1 says what it can\'t hold' => sub {
	$node->safe_psql('postgres',
		"CREATE DATABASE latin1 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0");
	$node->safe_psql('latin1', 'CREATE EXTENSION tegro');
	my $session = session($node, database => 'latin1');

	set($session, %usual, 'tegro.api_url' => $hostile->url, 'tegro.read_retries' => 0);
	# raw and escaped, in an answer and in a refusal
	my $raw = "\xd0\x91\xd0\xb0\xd0\xbd\xd0\xba";
	foreach my $text ($raw, '\u0411\u0430\u043d\u043a')
	{
		my $shown = $text eq $raw ? '\xd0\x91\xd0\xb0\xd0\xbd\xd0\xba' : $text;

		foreach my $body ("{\"type\":\"success\",\"desc\":\"\",\"data\":\"$text\"}", "{\"type\":\"error\",\"desc\":\"$text\"}")
		{
			foreach my $method (qw(balance createOrder))
			{
				my $result = ask($session, $method, new_order(case => 'bytes', status => 200, hex => unpack('H*', $body)));
				is($result->{sqlstate}, $method eq 'balance' ? 'TG004' : 'TG003', "$method, $body: no answer that it can hold");
				like($result->{detail}, qr/UTF8.*LATIN1|LATIN1|encoding/, "$method: the detail says why");
				like($result->{detail}, qr/The answer begins: .*\Q$shown\E/, "$method: and shows what came");
			}
		}
	}
	# what it can hold
	foreach my $text ("Caf\xc3\xa9", 'Caf\u00e9')
	{
		my $result = ask($session, 'balance', case => 'bytes', status => 200,
			hex => unpack('H*', "{\"type\":\"success\",\"data\":\"$text\"}"));
		like($result->{out}, qr/"Caf\xc3\xa9"/, 'a character that it has is a value') or diag($result->{err});
	}
	goes_on($session, 'after it');
	$session->close;
};

subtest 'fault 41: redirects are not followed' => sub {
	my $session = hostile_session('tegro.read_retries' => 2);

	foreach my $status (301, 302, 303, 307, 308)
	{
		foreach my $method (qw(balance createOrder))
		{
			my %order = new_order(case => "redirect $status");
			my $result = ask($session, $method, %order);

			is($result->{sqlstate}, $method eq 'balance' ? 'TG004' : 'TG003', "$status: $method ends");
			like($result->{detail}, qr/HTTP $status/, "$status: the detail says why");
			is(arrivals($order{order_id}), 1, "$status: $method was sent once");
		}
	}
	is($elsewhere->connections, 0, 'nothing went where they point');
	$session->close;
};

subtest 'an answer that quotes the signature does not show it' => sub {
	my $session = hostile_session();

	foreach my $case (sort keys %echoes)
	{
		foreach my $method (qw(balance createOrder))
		{
			my %order = new_order(case => $case);
			my $result = ask($session, $method, %order);
			my ($request) = grep { ($_->{params}{order_id} // '') eq $order{order_id} } $hostile->requests;
			my ($signature) = $request->{head} =~ /^Authorization: Bearer (\S+)/m;

			like($signature, qr/^[0-9a-f]{64}$/, "$case: $method was signed");
			isnt($result->{sqlstate}, '', "$case: $method ends in an error");
			my @pieces = map { substr($signature, $_, 16) } (0, 16, 32, 48);
			is(scalar(grep { index($result->{err}, $_) >= 0 } @pieces), 0, "$case: $method shows no part of the signature")
			  or diag($result->{err});
			my $log = TegroTest::slurp($node->logfile);
			is(scalar(grep { index($log, $_) >= 0 } @pieces), 0, "$case: neither does the log");
		}
	}
	$session->close;
};

subtest 'control characters of an answer don\'t reach the terminal' => sub {
	my $session = hostile_session();
	my $text = "\x{1b}[2J\x{9b}31m\x{1b}]0;title\x{7} text " . join('', map { chr } 1 .. 31, 127 .. 159);
	# as text in UTF-8, and as bytes that are none
	my $hex = unpack('H*', "\x1b[2J\xc2\x9b31m\x9b31m\x07\x08\x7f text " . join('', map { chr } 1 .. 31, 127 .. 255));

	foreach my $method (qw(balance createOrder))
	{
		my %results = (
			'the desc of a refusal' => ask($session, $method, new_order(case => 'text', text => $text)),
			'a page' => ask($session, $method, new_order(case => 'bytes', status => 502, hex => $hex)),
			'a row of a batch' => $session->query("SELECT message FROM tegro_batch('$method', ARRAY['"
				  . $ascii_json->encode({ new_order(case => 'text', text => $text) }) . "'::jsonb])"));
		foreach my $what (sort keys %results)
		{
			my $shown = $results{$what}{err} . $results{$what}{out};

			like($shown, qr/ text /, "$method, $what: the text is shown");
			like($shown, qr/\\x1b\[2J/, "$method, $what: with an escape in words");
			unlike($shown, qr/[\x00-\x08\x0b-\x1f\x7f]|\xc2[\x80-\x9f]|(?<![\xc2-\xf4\x80-\xbf])[\x80-\xbf]/,
				"$method, $what: without a control character");
		}
	}
	$session->close;
};

#
# Connections that don't come about
#

# Both kinds of calls are not sent, within the time for a connection.
sub is_not_sent
{
	my ($name, $url, %more) = @_;
	# what ends by itself has the time that it needs
	my $limit_ms = $more{hangs} ? 500 : 10_000;
	my $session = new_session(
		'tegro.api_url' => $url,
		'tegro.timeout' => '20s',
		'tegro.connect_timeout' => "${limit_ms}ms",
		'tegro.read_retries' => 0);

	foreach my $method (qw(balance createOrder))
	{
		my $result = ask($session, $method, new_order());

		is($result->{sqlstate}, 'TG002', "$name: $method was not sent") or diag($result->{err});
		like($result->{detail}, qr/nothing was sent/, "$name: the detail says so");
		like($result->{detail}, $more{detail}, "$name: the detail says why") if $more{detail};
		like($result->{hint}, $more{hint} // qr/safe to repeat/, "$name: the hint says what to do");
		cmp_ok(own_ms($result), '<=', $more{hangs} ? 3000 : $limit_ms / 2, "$name: in time");
	}
	# to a name that was never looked up, and to an address
	set($session, 'tegro.connect_timeout' => '15s');
	foreach my $host ('slow-0-' . ++$order_count . '.provider.test', '127.0.0.1')
	{
		set($session, 'tegro.api_url' => "https://$host:" . $sandbox->port . '/api');
		my $result = ask($session, 'balance');
		is($result->{sqlstate}, '', "$name: the session makes a right call after it") or diag($result->{err});
		cmp_ok(own_ms($result), '<=', 5000, "$name: which does not hang");
	}
	$session->close;
	return;
}

foreach my $kind (qw(expired wrong_host self_signed))
{
	subtest "fault 37: a certificate that is $kind is not trusted" => sub {
		my $impostor = sandbox(%tls, certificate => $kind);

		is_not_sent($kind, $impostor->api_url, hint => qr/could not prove to be the provider/);
		is(scalar($impostor->journal), 0, 'nothing arrived');
		$impostor->stop;
	};
}

subtest 'fault 37: a good certificate of an authority that is not trusted' => sub {
	my $session = new_session('tegro.ca_file' => certificates()->{ca}, 'tegro.read_retries' => 0);

	$sandbox->begin;
	is(ask($session, 'balance')->{sqlstate}, 'TG002', 'it is not trusted');
	is(scalar($sandbox->journal), 0, 'nothing arrived');
	set($session, 'tegro.ca_file' => $certificates->{ca});
	is(ask($session, 'balance')->{sqlstate}, '', 'it is, once its authority is');
	# connections that were trusted by other authorities are not used
	set($session, 'tegro.ca_file' => certificates()->{ca});
	is(ask($session, 'balance')->{sqlstate}, 'TG002', 'and no more, once its authority is not');
	$session->close;
};

subtest 'fault 37: a TLS handshake that fails' => sub {
	my $begin_of_server_hello = pack('H*', '160303007a0200007603');
	my $handshake_failure = pack('H*', '15030300020228');

	# code that goes on after the ClientHello
	my %handlers = (
		'closed after the ClientHello' => sub { },
		'closed within the ServerHello' => sub { syswrite($_[0], $begin_of_server_hello); },
		'silent within the ServerHello' => sub { syswrite($_[0], $begin_of_server_hello); sleep 600; },
		'an alert' => sub { syswrite($_[0], $handshake_failure); },
		'plain http' => sub { print { $_[0] } http(200, $good); },
		'garbage for ever' => sub { pour($_[0], "\x00\xff\x16"); });

	foreach my $name (sort keys %handlers)
	{
		my $server = raw_server(sub { sysread($_[0], my $hello, 65536); $handlers{$name}->($_[0]); });

		is_not_sent($name, 'https://127.0.0.1:' . $server->port . '/api', hangs => $name =~ /^silent/);
		$server->stop;
	}
	my $server = raw_server(sub { });
	is_not_sent('closed at once', 'https://127.0.0.1:' . $server->port . '/api');
};

subtest 'fault 37: no connection' => sub {
	my $listener = TegroTest::listener();
	my $port = $listener->sockport;

	close($listener);
	is_not_sent('refused', "https://127.0.0.1:$port/api");
	is_not_sent('black-holed', 'https://127.0.0.1:' . black_hole()->port . '/api', hangs => 1);
	is_not_sent('a name that does not exist', 'https://missing.provider.test/api', detail => qr/resolve/i);
	is_not_sent('a name that is never resolved', 'https://stuck.provider.test/api', hangs => 1, detail => qr/during name lookup/);
	# a resolver with a limited number of threads, each of them stuck
	my $session = new_session('tegro.connect_timeout' => '100ms', 'tegro.read_retries' => 0);
	foreach my $turn (1 .. 25)
	{
		set($session, 'tegro.api_url' => "https://stuck-$turn.provider.test/api");
		ask($session, 'balance');
	}
	set(
		$session,
		'tegro.connect_timeout' => '9s',
		'tegro.api_url' => 'https://slow-0-unstuck.provider.test:' . $sandbox->port . '/api');
	is(ask($session, 'balance')->{sqlstate}, '', 'after many names that are never resolved, one that is');
	$session->close;
};

subtest 'fault 37: one of a name\'s two addresses is enough' => sub {
	my $port = $sandbox->port;
	my $session = new_session('tegro.api_url' => "https://dual-1.provider.test:$port/api", 'tegro.connect_timeout' => '9s');

	is(ask($session, 'balance')->{sqlstate}, '', 'the one over IPv6 refuses');
	my $hole = eval { black_hole(host => '::1', port => $port); };
  SKIP:
	{
		# then it refuses, which was seen above
		skip 'the machine has no IPv6', 1 unless $hole;
		set($session, 'tegro.api_url' => "https://dual-2.provider.test:$port/api");
		my $result = ask($session, 'createOrder', new_order());
		is($result->{sqlstate}, '', 'the one over IPv6 hangs') or diag($result->{err});
	}
	# the connection that was given up has left nothing behind
	set($session, 'tegro.api_url' => "https://slow-0-dual.provider.test:$port/api");
	my $result = ask($session, 'balance');
	is($result->{sqlstate}, '', 'and another name after it') or diag($result->{err});
	$session->close;
};

#
# Where requests may go
#

subtest 'names and addresses that lead to the own link are refused' => sub {
	foreach my $host (
		'linklocal.provider.test', 'mapped.provider.test', '169.254.169.254', '2852039166', '0xa9fea9fe',
		'0251.0376.0251.0376', '[fe80::1]', '[::ffff:169.254.169.254]')
	{
		my $session = new_session('tegro.api_url' => "https://$host/api");

		foreach my $method (qw(balance createOrder))
		{
			my $result = ask($session, $method, new_order());

			is($result->{sqlstate}, 'TG006', "$host: $method is refused") or diag($result->{err});
			like($result->{detail}, qr/link-local.*nothing was sent/, "$host: the detail says why");
			cmp_ok(own_ms($result), '<=', 3000, "$host: at once");
		}
		$session->close;
	}
};

subtest 'plain http stays on this machine' => sub {
	my $session = new_session('tegro.connect_timeout' => '9s', 'tegro.read_retries' => 0);
	my @urls = map { "http://$_/api" }
	  ('linklocal.provider.test', 'other.provider.test', '192.0.2.1', '[2001:db8::1]', '127.0.0.1.provider.test');

	is(ask($session, 'balance')->{sqlstate}, '', 'the sandbox is asked');
	foreach my $url (@urls)
	{
		is($session->query("ALTER SYSTEM SET tegro.api_url = '$url'")->{sqlstate}, '22023', "$url is refused");
	}
	# in the file nobody refuses it, but it does not come into force
	$session->query('ALTER SYSTEM RESET tegro.api_url');
	foreach my $url (@urls)
	{
		$node->append_conf('postgresql.conf', "tegro.api_url = '$url'");
		reload_conf($node, $session);
		foreach my $asking ($session, session($node))
		{
			is( $asking->query(q{SELECT url FROM tegro_preview('balance')})->{out},
				$sandbox->api_url . '/balance/', "$url is not used, if it stands in the file");
			$asking->close if $asking != $session;
		}
	}
	is(ask($session, 'balance')->{sqlstate}, '', 'the sandbox is still asked');
	$node->append_conf('postgresql.conf', "tegro.api_url = '$usual{'tegro.api_url'}'");
	# what a name server, or the hosts file, says of "localhost" is not believed
	set($session, 'tegro.api_url' => 'http://localhost:' . $hostile->port . '/api');
	my $result = ask($session, 'balance', tag => 'here');
	ok($result->{out} =~ /"tag": "here"/ || $result->{sqlstate} eq 'TG006', 'localhost is this machine, or nothing')
	  or diag($result->{err});
	$session->close;
};

is($proxy->connections, 0, 'the proxies that the environment names were never asked');
is($elsewhere->connections, 0, 'nothing went where it should not');
unlike(TegroTest::slurp($node->logfile), qr/terminated by signal|PANIC:|TRAP:/,
	'no process of the server died of a signal');
unlike(TegroTest::slurp($node->logfile), qr/is not blocked on a thread/,
	'threads that look names up leave signals alone');

done_testing;
