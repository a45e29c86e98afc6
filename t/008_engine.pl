#
# The engine of calls takes what there is: of the files that name authorities, of
# answers, and of memory; and it shows foreign text only through one filter.  File
# descriptors: 011_descriptors.pl.
#
# Servers of this file's own send what no HTTP library would; sandboxes do all
# else.  What must be waited for longest, an idle connection's end, is begun
# first and looked at last.
#
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use IO::Select;
use IO::Socket::IP;
use JSON::PP;
use List::Util qw(max);
use POSIX ();
use Test::More;
use TegroTest;
use Time::HiRes qw(sleep time);

my $json = JSON::PP->new->canonical->ascii;

#
# Servers
#

sub http
{
	my ($body) = @_;

	return "HTTP/1.1 200 OK\r\nContent-Length: " . length($body) . "\r\n\r\n$body";
}

sub chunk
{
	my ($bytes) = @_;

	return sprintf("%x\r\n%s\r\n", length $bytes, $bytes);
}

my $good = '{"type":"success","desc":"","data":{"id":1}}';
my $chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

# Answers as the parameter "case" of a request says.
my %cases = (
	# the second chunk comes while the exchange is paused, to make room for the
	# first, and is more than may come
	'too large while paused' => sub {
		my ($socket) = @_;

		print {$socket} $chunked
		  . chunk('{"type":"success","desc":"","data":{"a":"' . 'x' x 1100 . '"')
		  . chunk(',"b":"' . 'y' x 7500 . '"');
		sleep 0.3;
		print {$socket} chunk(',"c":1') . chunk('}}') . "0\r\n\r\n";
	},
	'large while paused' => sub {
		my ($socket) = @_;

		print {$socket} $chunked
		  . chunk('{"type":"success","desc":"","data":{"a":"' . 'x' x 1100 . '"')
		  . chunk(',"b":"' . 'y' x 6000 . '"');
		sleep 0.3;
		print {$socket} chunk(',"c":1') . chunk('}}') . "0\r\n\r\n";
	},
	'huge numbers' => sub {
		my ($socket) = @_;

		print {$socket} http('{"type":"success","data":[' . join(',', ('1e131071') x 20_000) . ']}');
	},
	'tiny numbers' => sub {
		my ($socket) = @_;

		print {$socket} http('{"type":"success","data":[' . join(',', ('1E-16380') x 100) . ']}');
	},
	'words like numbers' => sub {
		my ($socket) = @_;

		print {$socket} http('{"type":"success","data":["1e9999999", "\\"1e9999999", 1e3, true]}');
	},
	'Cyrillic, escaped' => sub {
		my ($socket) = @_;

		print {$socket} http('{"type":"success","data":"\u0433"}');
	});

my $server = raw_server(
	sub {
		my ($socket) = @_;

		$socket->autoflush(1);
		while (my $request = read_request($socket))
		{
			my $case = $cases{ $request->{params}{case} // '' };

			$case ? $case->($socket) : print {$socket} http($good);
		}
		TegroTest::raw_note(ended => time);
	});

# Reads the first part of a large request at once, and the rest later.
my $slow_reader = raw_server(
	sub {
		my ($socket) = @_;

		$socket->autoflush(1);
		for (;;)
		{
			my $bytes = '';

			sysread($socket, $bytes, 4096, length $bytes) or return until $bytes =~ /\r\n\r\n/;
			my ($length) = $bytes =~ /^content-length: *(\d+)/mi;
			my $left = $length - (length($bytes) - $+[0]) if $bytes =~ /\r\n\r\n/;
			if ($length > 100_000)
			{
				TegroTest::raw_note(large => 1);
				sleep 2;
			}
			while ($left > 0)
			{
				my $n = sysread($socket, my $more, 65536) or return;
				$left -= $n;
			}
			print {$socket} http($good);
		}
	},
	small_buffer => 1);

my $proxy = raw_server(sub { read_request($_[0]); });

my $certificates = certificates();
my $other_certificates = certificates();
my %tls = (certificates => $certificates);
my $sandbox = sandbox(%tls);
my $ca_file = spew(TegroTest::scratch() . '/authorities.pem', TegroTest::slurp($certificates->{ca}));
my $node = cluster('main', $sandbox, environment => { no_proxy => '*', NO_PROXY => '*' });

# What a method answers in a session, with parameters.
sub ask
{
	my ($session, $method, %params) = @_;
	my $text = $json->encode(\%params) =~ s/'/''/gr;

	return $session->query("SELECT tegro_call('$method', '$text')");
}

my $norders = 0;

sub new_order
{
	return (order_id => 'order ' . ++$norders, currency => 'RUB', amount => 1, @_);
}

my $session = session($node);

set_server($node, { 'tegro.api_url' => $server->url, 'tegro.ca_file' => $ca_file }, $session);

#
# Begun first: sessions that fall asleep
#

my $sleeper = session($node);
my $stumbler = session($node);

ask($sleeper, 'balance');
ask($stumbler, 'balance');
$stumbler->query('SELECT 1/0');
my $asleep_since = time;

#
# Answers
#

subtest 'fault 63: an answer that a database in SQL_ASCII cannot read is one row\'s error' => sub {
	$node->safe_psql('postgres',
		"CREATE DATABASE sql_ascii ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0");
	$node->safe_psql('sql_ascii', 'CREATE EXTENSION tegro');
	my $ascii = session($node, database => 'sql_ascii');

	foreach my $method (qw(balance createOrder))
	{
		my $state = $method eq 'balance' ? 'TG004' : 'TG003';
		my $elements = join(', ', map { q{'} . $json->encode({ new_order(@$_) }) . q{'::jsonb} }
			  ([], [ case => 'Cyrillic, escaped' ], []));
		my $result = $ascii->query(
			"SELECT position, coalesce(sqlstate, 'answered') FROM tegro_batch('$method', ARRAY[$elements]) ORDER BY 1");

		is($result->{out}, "1|answered\n2|$state\n3|answered", "$method: the others have their answers")
		  or diag($result->{err});
	}
	$ascii->query(q{SELECT tegro_enqueue('createOrder', '} . $json->encode({ new_order(@$_) }) . q{')})
	  foreach [ case => 'Cyrillic, escaped' ], [];
	ok(wait_until(
			sub {
				$ascii->query("SELECT string_agg(state, ' ' ORDER BY id) FROM tegro_outbox WHERE attempts > 0")->{out} =~ / accepted$/;
			}), 'delivery goes on after such an answer')
	  or diag($ascii->query('SELECT id, state, message FROM tegro_outbox')->{out});
	$ascii->query('DROP EXTENSION tegro');
	$ascii->close;
};

subtest 'fault 67: an answer that lost bytes is an error' => sub {
	set_server($node, { 'tegro.max_answer_size' => '8kB' }, $session);
	foreach my $method (qw(balance createOrder))
	{
		my $result = ask($session, $method, new_order(case => 'too large while paused'));

		is($result->{sqlstate}, $method eq 'balance' ? 'TG004' : 'TG003', "$method: too large") or diag($result->{out});
		like($result->{detail}, qr/too large/, "$method: the detail says so");
		is($result->{hint} =~ /max_answer_size/ ? 1 : 0, 1, 'the hint names the cap') if $method eq 'balance';
		is(ask($session, $method, new_order())->{sqlstate}, '', "$method: the next call is answered");
	}
	my $result = $session->query(
		q{SELECT length(a ->> 'a') || ' ' || length(a ->> 'b') || ' ' || (a ->> 'c')
		FROM (SELECT tegro_call('balance', '{"case": "large while paused"}') -> 'data') AS t (a)});
	is($result->{out}, '1100 6000 1', 'one that is not too large is whole') or diag($result->{err});
	set_server($node, { 'tegro.max_answer_size' => undef }, $session);
};

subtest 'numbers whose exponents fill the memory are no answer' => sub {
	foreach my $case ('huge numbers', 'tiny numbers')
	{
		my $result = $session->query("SELECT length(tegro_call('balance', '{\"case\": \"$case\"}')::text)");

		is($result->{sqlstate}, 'TG004', $case) or diag($result->{out}, $result->{err});
		like($result->{detail}, qr/too many digits/, "$case: the detail says why");
	}
	my $result = $session->query(q{SELECT tegro_call('balance', '{"case": "words like numbers"}') -> 'data'});
	is($result->{out}, '["1e9999999", "\"1e9999999", 1000, true]', 'what only looks like such numbers is one')
	  or diag($result->{err});
};

subtest 'fault 68: each request has its own TCP_USER_TIMEOUT' => sub {
	my $hasty = session($node);

	set_server($node, { 'tegro.api_url' => $slow_reader->url, 'tegro.max_request_size' => '4MB' }, $session, $hasty);
	my $before = $slow_reader->connections;
	$hasty->query("SET tegro.timeout = '400ms'");
	is(ask($hasty, 'balance')->{sqlstate}, '', 'a short call opens a connection');
	$hasty->query("SET tegro.timeout = '10s'");
	my $result = ask($hasty, 'createOrder', new_order(note => 'x' x 3_000_000));
	is($result->{sqlstate}, '', 'a long one on it has the time that it may take') or diag($result->{err});
	is($slow_reader->connections - $before, 1, 'on the same connection');
	$hasty->close;
};

#
# Foreign text
#

subtest 'fault 69: a certificate\'s name is shown as foreign text' => sub {
	my $dir = TegroTest::scratch();
	my %odd = (odd => "$dir/odd.pem", odd_key => "$dir/odd.key");

	TegroTest::must_run('openssl', 'req', '-x509', '-utf8', '-days', 2, '-newkey', 'ec', '-pkeyopt',
		'ec_paramgen_curve:P-256', '-nodes', '-keyout', $odd{odd_key}, '-out', $odd{odd},
		'-subj', "/CN=evil\x1b[31mred\x1b]0;title\x07\xc2\x9b2J");
	my $impostor = sandbox(certificates => \%odd, certificate => 'odd');

	set_server($node, { 'tegro.api_url' => $impostor->api_url, 'tegro.ca_file' => $odd{odd} }, $session);
	my %shown = (
		'an error' => ask($session, 'balance')->{err},
		'a row' => $session->query(q{SELECT message FROM tegro_batch('balance', ARRAY['{}'::jsonb])})->{out},
		'the doctor' => $session->query(q{SELECT detail FROM tegro_doctor() WHERE "check" = 'network'})->{out});
	foreach my $what (sort keys %shown)
	{
		like($shown{$what}, qr/evil\\x1b\[31m/, "$what: the name is shown, escaped");
		unlike($shown{$what}, qr/[\x00-\x08\x0b-\x1f\x7f]|\xc2[\x80-\x9f]/, "$what: without a control character");
	}
	$impostor->stop;
	set_server($node, { 'tegro.api_url' => $sandbox->api_url, 'tegro.ca_file' => $ca_file }, $session);
};

subtest 'fault 75: the SQLSTATE is ours in whatever encoding the client reads' => sub {
	foreach my $encoding (qw(UTF8 LATIN1 WIN1251 SQL_ASCII))
	{
		my $client = session($node, encoding => $encoding);

		$sandbox->begin;
		$sandbox->fault('*', 'answer', status => 200, times => 4,
			body => "{\"type\":\"error\",\"desc\":\"\xd0\x9d\xd0\xb5\xd1\x82 caf\xc3\xa9\"}");
		foreach my $method (qw(balance createOrder))
		{
			my $result = ask($client, $method, new_order());

			is($result->{sqlstate}, 'TG001', "$encoding: $method is refused") or diag($result->{err});
			my $shown = {
				UTF8 => "\xd0\x9d\xd0\xb5\xd1\x82 caf\xc3\xa9",
				SQL_ASCII => "\xd0\x9d\xd0\xb5\xd1\x82 caf\xc3\xa9",
				LATIN1 => "\\xd0\\x9d\\xd0\\xb5\\xd1\\x82 caf\xe9",
				WIN1251 => "\xcd\xe5\xf2 caf\\xc3\\xa9" }->{$encoding};
			like($result->{detail}, qr/\Q$shown\E/, "$encoding: the text is shown as far as it can be");
			$result = $client->query("SELECT sqlstate FROM tegro_batch('$method', ARRAY['"
				  . $json->encode({ new_order() }) . "'::jsonb]) WHERE message <> ''");
			is($result->{out}, 'TG001', "$encoding: a row of a batch");
		}
		# what the caller named himself
		$sandbox->begin;
		$sandbox->fault('createOrder', 'close_after_read');
		my $result = ask($client, 'createOrder', new_order(order_id => "\x{41d}\x{435}\x{442} $encoding"));
		is($result->{sqlstate}, 'TG003', "$encoding: an unknown outcome");
		# a payout, whose worker has an encoding of its own
		$sandbox->begin;
		$sandbox->fault('createWithdrawal', 'answer', status => 200,
			body => "{\"type\":\"error\",\"desc\":\"\xd0\x9d\xd0\xb5\xd1\x82\"}");
		$result = $client->query("SELECT tegro_create_withdrawal('" . $json->encode({
				payment_id => "\x{41d} $encoding", currency => 'RUB', amount => 1, account => '1', payment_system => 1 }) . "')");
		is($result->{sqlstate}, 'TG001', "$encoding: a payout that is refused") or diag($result->{err});
		# what is quoted of the caller's parameters
		$result = $client->query("SELECT tegro_payment_url('{\"\\u041d\": 1}')");
		is($result->{sqlstate}, '22023', "$encoding: a parameter that there is not") or diag($result->{err});
		$client->close;
	}
};

#
# Files and the environment
#

subtest 'fault 65: NO_PROXY of the environment does not bypass tegro.proxy' => sub {
	set_server($node, { 'tegro.proxy' => 'http://127.0.0.1:' . $proxy->port }, $session);
	isnt(ask($session, 'balance')->{sqlstate}, '', 'a call does not get past the proxy');
	cmp_ok($proxy->connections, '>', 0, 'the proxy was asked');
	set_server($node, { 'tegro.proxy' => undef }, $session);
	is(ask($session, 'balance')->{sqlstate}, '', 'without a proxy it is answered');
};

# Replaces the file with the authorities, and has it read.
sub trust
{
	my ($ca) = @_;

	# in one piece, as a package manager would
	spew("$ca_file.new", TegroTest::slurp($ca));
	rename("$ca_file.new", $ca_file) or die "could not rename: $!";
	reload_conf($node);
	return;
}

sub sees_reload
{
	my ($seen_by, $before) = @_;

	return wait_until(sub { $seen_by->query('SELECT pg_conf_load_time()')->{out} ne $before; });
}

subtest 'fault 66: authorities are read again after a reload' => sub {
	is(ask($session, 'balance')->{sqlstate}, '', 'they are trusted at first');
	my $open = descriptors($session->pid);
	foreach my $turn (1 .. 3)
	{
		my $before = $session->query('SELECT pg_conf_load_time()')->{out};
		trust($other_certificates->{ca});
		sees_reload($session, $before);
		my $result = ask($session, 'balance');
		is($result->{sqlstate}, 'TG002', "turn $turn: not once the file names others") or diag($result->{out});
		like($result->{hint}, qr/could not prove to be the provider/, 'because of the certificate');

		$before = $session->query('SELECT pg_conf_load_time()')->{out};
		trust($certificates->{ca});
		sees_reload($session, $before);
		is(ask($session, 'balance')->{sqlstate}, '', "turn $turn: and again, once it names them");
	}

	$sandbox->fault('balance', 'hold', ms => 500, times => 5);
	$session->query(q{SELECT count(*) FROM tegro_batch('balance', array_fill('{}'::jsonb, ARRAY[5]))});
	cmp_ok(descriptors($session->pid), '>=', $open + 4, 'several connections are kept');
	reload_conf($node, $session);
	sleep 1.5;		# libcurl looks for dead ones once a second
	is(ask($session, 'balance')->{sqlstate}, '', 'the next call is answered');
	is(descriptors($session->pid), $open, 'and none from before the reload is left');
};

subtest 'fault 66: a worker that is busy reads authorities again, too' => sub {
	my $enqueue = sub {
		return $session->query(q{SELECT tegro_enqueue('createOrder', '} . $json->encode({ new_order() }) . q{')})->{out};
	};
	my $count = sub { return $session->query("SELECT count(*) FROM tegro_outbox WHERE $_[0]")->{out}; };

	$sandbox->begin;
	$sandbox->fault('createOrder', 'hold', ms => 4000, times => 3);
	$enqueue->() foreach 1 .. 3;
	ok(wait_until(sub { 3 <= scalar($sandbox->journal(method => 'createOrder')); }), 'some are on their way');
	trust($other_certificates->{ca});
	sleep 0.3;
	my $late = $enqueue->();
	ok(wait_until(sub { $count->("id = $late AND message IS NOT NULL") == 1; }), 'one more is tried');
	like($session->query("SELECT message FROM tegro_outbox WHERE id = $late")->{out}, qr/could not reach.*nothing was sent/,
		'and not sent to one who is not trusted');
	ok(wait_until(sub { $count->(q{state = 'accepted'}) == 3; }), 'the others have their answers')
	  or diag($session->query('SELECT id, state, attempts, message FROM tegro_outbox')->{out});
	trust($certificates->{ca});
	$session->query("SELECT tegro_refresh($late)");
	ok(wait_until(sub { $count->(q{state = 'accepted'}) == 4; }), 'it goes out once the authority is trusted again');
};

subtest 'fault 66: a busy worker delivers to a provider whose authority has changed, after a reload' => sub {
	# what connects is led to the provider of before, or to that of now
	my $now = sandbox(certificates => $other_certificates);
	my $route = spew(TegroTest::scratch() . '/route', $sandbox->port);
	my $relay = raw_server(
		sub {
			my ($client) = @_;
			my $provider = IO::Socket::IP->new(PeerHost => '127.0.0.1', PeerPort => TegroTest::slurp($route)) or return;
			my $select = IO::Select->new($client, $provider);

			for (;;)
			{
				foreach my $from ($select->can_read)
				{
					my $to = $from == $client ? $provider : $client;

					sysread($from, my $bytes, 65536) or return;
					$bytes = substr($bytes, syswrite($to, $bytes) // return) while length $bytes;
				}
			}
		});
	# a database, and so a worker, that has no connection yet
	$node->safe_psql('postgres', 'CREATE DATABASE authorities');
	$node->safe_psql('authorities', 'CREATE EXTENSION tegro');
	set_server($node, { 'tegro.api_url' => 'https://127.0.0.1:' . $relay->port . '/api', 'tegro.timeout' => '30s' });
	my $shop = session($node, database => 'authorities');
	my $enqueue = sub {
		return $shop->query(q{SELECT tegro_enqueue('createOrder', '} . $json->encode({ new_order() }) . q{')})->{out};
	};
	my $count = sub { return $shop->query("SELECT count(*) FROM tegro_outbox WHERE $_[0]")->{out}; };
	my $show = sub { diag($shop->query('SELECT id, state, attempts, message FROM tegro_outbox')->{out}); };
	my $worker = q{SELECT string_agg(pid::text, ' ') FROM pg_stat_activity
		WHERE datname = current_database() AND backend_type = 'tegro delivery worker'};

	$sandbox->begin;
	$sandbox->fault('createOrder', 'hold', ms => 12_000, times => 3);
	my @busy = map { $enqueue->() } 1 .. 3;
	my $busy = 'id IN (' . join(', ', @busy) . ')';
	ok(wait_until(sub { 3 <= scalar($sandbox->journal(method => 'createOrder')); }), 'some are on their way');
	my $pid = $shop->query($worker)->{out};

	# the provider and the file change, and nobody says so
	spew("$ca_file.new", TegroTest::slurp($other_certificates->{ca}));
	rename("$ca_file.new", $ca_file) or die "could not rename: $!";
	spew($route, $now->port);
	my $late = $enqueue->();
	ok(wait_until(sub { $count->("id = $late AND message IS NOT NULL") == 1; }), 'one more is tried');
	like($shop->query("SELECT message FROM tegro_outbox WHERE id = $late")->{out},
		qr/could not reach.*certificate.*nothing was sent/, 'without a reload the new authority is not known');
	is(scalar($now->journal), 0, 'and nothing reaches the provider');

	reload_conf($node);
	$enqueue->() foreach 1 .. 20;
	$shop->query("SELECT tegro_refresh($late)");
	ok(wait_until(sub { $count->(q{state = 'accepted'}) >= 21; }, 40), 'after a reload all are delivered') or $show->();
	is($count->("$busy AND state = 'sending'"), 3, 'while the first are still on their way') or $show->();
	ok(wait_until(sub { $count->(q{state = 'accepted'}) == 24; }, 40), 'which have their answers in the end') or $show->();
	is(scalar($sandbox->journal(method => 'createOrder', executed => 1)), 3, 'each of these was executed once');
	is(scalar($now->journal(method => 'createOrder', executed => 1)), 21, 'each of the others, too');
	is($shop->query($worker)->{out}, $pid, 'all by one worker');

	$shop->query('DROP EXTENSION tegro');
	$shop->close;
	trust($certificates->{ca});
	set_server($node, { 'tegro.api_url' => $sandbox->api_url, 'tegro.timeout' => undef }, $session);
	$_->stop foreach $relay, $now;
};

#
# Memory
#

subtest 'a batch takes memory for what is in flight' => sub {
	my $batch = session($node);
	my $run = sub {
		my ($size) = @_;

		my $result = $batch->query("SELECT count(answer) FROM tegro_batch('balance', "
			  . "ARRAY(SELECT '{\"tag\": 1}'::jsonb FROM generate_series(1, $size)))");
		is($result->{out}, $size, "$size calls are answered") or diag($result->{err});
		return vm_hwm_kb($batch->pid);
	};
	my $before = $run->(1000);
	my $after = $run->(21_000);

	# the array itself, and the rows, which work_mem bounds
	cmp_ok(($after - $before) * 1024 / 20_000, '<', 500, 'less than 500 bytes for each more');
	$batch->close;
};

#
# Begun first
#

subtest 'fault 64: an idle connection is closed while its session sleeps' => sub {
	sleep max(0, $asleep_since + 33 - time);

	ok(wait_until(sub { 2 <= grep { defined $_->{ended} && $_->{ended} > $asleep_since + 25 } $server->notes; }, 30),
		'both sessions\' connections are closed, the one after an error, too');
	foreach my $sleeping ($sleeper, $stumbler)
	{
		is(ask($sleeping, 'balance')->{sqlstate}, '', 'the session makes another call');
		$sleeping->close;
	}
};

unlike(TegroTest::slurp($node->logfile), qr/terminated by signal|PANIC:|TRAP:/,
	'no process of the server died of a signal');

done_testing;
