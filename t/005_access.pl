# 005_access.pl: who may do what, and that keys never show.
#
# An ordinary role tries what it must not be able to: call without a grant, set
# where requests go, see a key, plant objects under the extension's names, slip
# line breaks into a request, call a payout.  The keys in the credentials file
# contain a canary; when all is done, everything that the server ever said,
# logged or stored is searched for it.
#
# The server runs with all that is apt to tell too much: pg_stat_statements,
# auto_explain, log_statement, the log at debug5; and with proxies in its
# environment.  A second listener stands where requests must not go.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use Digest::SHA qw(hmac_sha256_hex);
use IPC::Run;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TegroTest;

use constant SHOP => 'SHOP-OF-THE-TEST';
use constant KEY => 'CANARY-api-key-5f1c';
use constant SECRET => 'CANARY-secret-key-77aa';

my $dir = PostgreSQL::Test::Utils::tempdir();

# All that clients were told, searched at the end.
my $told = '';

sub write_file
{
	my ($name, $content) = @_;

	open(my $file, '>:raw', "$dir/$name") or die "could not write $dir/$name: $!";
	print {$file} $content;
	close($file) or die "could not write $dir/$name: $!";
	chmod(0600, "$dir/$name");
	return "$dir/$name";
}

# The lines that match, the first few of them.
sub lines_with
{
	my ($pattern, $text) = @_;
	my @lines = grep { /$pattern/ } split(/\n/, $text);

	return join("\n", map { substr($_, 0, 300) } @lines[ 0 .. ($#lines < 4 ? $#lines : 4) ]);
}

sub quote
{
	my ($string) = @_;

	return q{'} . $string =~ s/'/''/gr . q{'};
}

# A string as SQL, with escapes, so that it arrives as it is.
sub quote_bytes
{
	my ($string) = @_;

	return q{E'} . $string =~ s/([^ !#-&(-\[\]-~])/sprintf('\\x%02x', ord($1))/ger . q{'};
}

# In a session or, by role's name, in a new one; keeps what was told.
sub ask
{
	my ($who, $sql) = @_;
	my $session = ref $who ? $who : open_session($who);
	my $result = $session->query($sql);

	$told .= "$result->{out}\n$result->{err}\n";
	$session->close unless ref $who;
	return $result;
}

# A body and its signature by whatever key: which key was it?
sub signed_with
{
	my ($body, $authorization, %keys) = @_;

	foreach my $name (sort keys %keys)
	{
		return $name if $authorization eq 'Bearer ' . hmac_sha256_hex($body, $keys{$name});
	}
	return "an unknown key";
}

my $certificates = certificates(qw(good self_signed));
my $sandbox;

# What the provider answers to a request that anyone could send it.
sub post
{
	my ($method, $authorization, $body) = @_;
	my ($out, $err) = ('', '');

	IPC::Run::run(
		[
			'curl', '-sS', '--noproxy', '*', '--cacert', $certificates->{ca}, '-A', 'anyone/1.0',
			'-H', 'Content-Type: application/json', '-H', "Authorization: $authorization",
			'--data-raw', $body, $sandbox->api_url . "/$method/"
		],
		'<', \undef, '>', \$out, '2>', \$err) or die "curl: $err";
	return JSON::PP->new->decode($out);
}

$sandbox = sandbox(
	certificates => $certificates,
	arguments => [ '--shop', join(':', SHOP, KEY, SECRET) ]);

# where requests must not go
my $evil = raw_server(
	sub {
		my ($socket) = @_;
		read_request($socket);
	});
my $evil_address = '127.0.0.1:' . $evil->port;

my %keys = (
	'the canary' => KEY,
	'the definer' => 'CANARY-of-definer',
	alice => 'CANARY-of-alice',
	'the evil one' => 'evil-key');
my $credentials = write_file(
	'path-to-credentials',
	join("\n",
		'# keys of the shops',
		"RIGHTS:definer:$keys{'the definer'}:CANARY-secret-of-definer",
		"RIGHTS:alice:$keys{alice}:CANARY-secret-of-alice",
		SHOP . ':*:' . KEY . ':' . SECRET)
	  . "\n");
my $evil_credentials = write_file('evil-credentials', "*:*:$keys{'the evil one'}:evil\n");

write_file('.netrc',
	"machine 127.0.0.1 login evil password evil\ndefault login evil password evil\n");
my $node = cluster(
	'access', $sandbox,
	certificates => $certificates,
	environment => {
		(   map { ($_ => "http://$evil_address") }
			  qw(http_proxy https_proxy HTTPS_PROXY all_proxy ALL_PROXY)),
		no_proxy => '',
		NO_PROXY => '',
		HOME => $dir,
		CURL_HOME => $dir
	},
	conf => <<"END");
shared_preload_libraries = 'pg_stat_statements, auto_explain, tegro'
wal_level = replica
max_wal_senders = 4
hot_standby = on
tegro.shop_id = '@{[SHOP]}'
tegro.credentials_file = '$credentials'
log_min_messages = debug5
log_statement = all
log_error_verbosity = verbose
log_min_duration_statement = 0
debug_print_plan = on
auto_explain.log_min_duration = 0
auto_explain.log_analyze = on
auto_explain.log_verbose = on
auto_explain.log_settings = on
auto_explain.log_nested_statements = on
pg_stat_statements.track = all
END

sub open_session
{
	my ($user, @options) = @_;

	return session($node, user => $user, @options);
}

my $admin = session($node);
ask($admin, <<'SQL');
CREATE EXTENSION pg_stat_statements;
CREATE ROLE taker NOLOGIN;
CREATE ROLE alice LOGIN;
CREATE ROLE bob LOGIN;
CREATE ROLE definer LOGIN;
CREATE ROLE mallory LOGIN;
CREATE ROLE monitor LOGIN IN ROLE pg_monitor;
GRANT taker TO alice, bob, definer, monitor;
GRANT CREATE ON SCHEMA public TO alice, definer, mallory
SQL

# The functions of the extension: those that can be called, with how.
my @functions = map {
	my ($signature, $call, $callable) = split(/\t/, $_);
	{ signature => $signature, call => $call, callable => $callable eq 't' };
} split(/\n/, $node->safe_psql('postgres', <<'SQL'));
SELECT concat_ws(E'\t', p.oid::regprocedure,
	CASE p.prokind WHEN 'p' THEN 'CALL ' ELSE 'SELECT * FROM ' END || p.oid::regproc || '(' ||
	(SELECT coalesce(string_agg('NULL::' || format_type(t, NULL), ', ' ORDER BY n), '')
		FROM unnest(p.proargtypes) WITH ORDINALITY AS a (t, n)) || ')',
	p.prorettype NOT IN ('trigger'::regtype, 'fdw_handler'::regtype, 'event_trigger'::regtype))
FROM pg_depend d JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
	AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'tegro')
ORDER BY p.proname, p.oid::regprocedure::text
SQL

# Its tables, views and sequences.
my @relations = split(/\n/, $node->safe_psql('postgres', <<'SQL'));
SELECT c.oid::regclass
FROM pg_depend d JOIN pg_class c ON d.classid = 'pg_class'::regclass AND d.objid = c.oid
WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
	AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'tegro')
	AND c.relkind IN ('r', 'v', 'm', 'f', 'p', 'S')
SQL


#
# Grants
#

cmp_ok(scalar(@functions), '>=', 14, 'the extension has functions');
{
	my $mallory = open_session('mallory');

	foreach my $function (@functions)
	{
		my ($signature, $call) = @{$function}{qw(signature call)};

		is( ask($admin, "SELECT has_function_privilege('mallory', '$signature', 'EXECUTE')")->{out},
			'f',
			"$signature is not executable without a grant");
		next unless $function->{callable};

		is(ask($mallory, $call)->{sqlstate},
			'42501', "calling $signature without a grant is refused");
		ask($admin, "GRANT EXECUTE ON ROUTINE $signature TO mallory");
		# it reads with the caller's rights
		ask($admin, 'GRANT SELECT ON tegro_outbox, tegro_event TO mallory') if $signature =~ /^tegro_explain/;
		isnt(ask($mallory, $call)->{sqlstate}, '42501', "calling $signature with a grant is not");
		ask($admin, "REVOKE EXECUTE ON ROUTINE $signature FROM mallory");
		is(ask($mallory, $call)->{sqlstate}, '42501', "and is again once the grant is taken back");
		ask($admin, 'REVOKE SELECT ON tegro_outbox, tegro_event FROM mallory') if $signature =~ /^tegro_explain/;
		ask($admin, "GRANT EXECUTE ON ROUTINE $signature TO taker");
	}

	foreach my $relation (@relations)
	{
		my $open = ask($admin, <<"SQL");
SELECT p FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) p, pg_class c
WHERE c.oid = '$relation'::regclass AND c.relkind <> 'S' AND has_table_privilege('mallory', c.oid, p)
SQL
		is("$open->{out}$open->{err}", '', "$relation can't be read or written without a grant");
	}

	# A preview shows no signature, and needs no key.
	ask($admin, q{GRANT EXECUTE ON FUNCTION tegro_preview(text, jsonb) TO mallory});
	my $result = ask($mallory,
		q{SELECT headers->>'Authorization', body FROM tegro_preview('balance', '{"shop_id": "without a key"}')}
	);
	is($result->{sqlstate}, '', 'a preview can be had without the right to call, of a shop without a key');
	unlike($result->{out}, qr/[0-9a-f]{64}/, 'it has no signature');

	# A signature covers the body alone: that of another method would pay out.
	ask($admin, q{GRANT EXECUTE ON FUNCTION tegro_call(text, jsonb), tegro_balance() TO mallory});
	$sandbox->begin;
	my $payout = q{'{"payment_id": "stolen", "currency": "RUB", "amount": 777, "account": "thief"}'};
	foreach my $who ($mallory, $admin)
	{
		my $name = $who == $mallory ? 'a role that may call' : 'a superuser';

		foreach my $method (qw(balance order unknownMethod createOrder createWithdrawal))
		{
			my $params = $method eq 'createOrder' ? $payout =~ s/payment_id/order_id/r : $payout;
			my $preview = ask($who, "SELECT headers->>'Authorization' AS a, body AS b FROM tegro_preview('$method', $params)");
			my ($authorization, $body) = split(/\|/, $preview->{out}, 2);

			unlike($preview->{out}, qr/[0-9a-f]{64}/, "fault 93: $name sees no signature of $method");
			is(post('createWithdrawal', $authorization, $body)->{type}, 'error', '... nor a header that the provider takes');
			is(scalar(grep { $_->{executed} } $sandbox->journal), 0, '... for a payout');
		}
	}
	# so that these would pay out
	my ($body) = split(/\n/, ask($admin, "SELECT body FROM tegro_preview('balance', $payout)")->{out});
	is(post('createWithdrawal', 'Bearer ' . hmac_sha256_hex($body, KEY), $body)->{type}, 'success', 'the same body with a signature pays out');
	$sandbox->control('POST', 'reset');
	ask($admin, <<'SQL');
REVOKE EXECUTE ON FUNCTION tegro_call(text, jsonb), tegro_balance(), tegro_preview(text, jsonb) FROM mallory
SQL
	$mallory->close;
}


#
# Settings that decide where requests go
#

{
	my %evil_values = (
		'tegro.api_url' => "http://$evil_address/api",
		'tegro.proxy' => "http://$evil_address",
		'tegro.ca_file' => $certificates->{self_signed},
		'tegro.user_agent' => 'evil',
		'tegro.max_answer_size' => '1kB',
		'tegro.credentials_file' => $evil_credentials);
	my @settings = sort keys %evil_values;
	my $cannot = sub { return qq{parameter "$_[0]" cannot be changed now} };

	# What a session sees of them all: not of those that are for superusers.
	my $values = sub {
		my ($session) = @_;

		return ask($session, join('; ', map { "SHOW $_" } @settings))->{out};
	};
	my $as_configured = $values->($admin);
	# Where requests go by a session's calls.
	my $is_undisturbed = sub {
		my ($session, $after) = @_;

		$sandbox->begin;
		my $result = ask($session, 'SELECT tegro_balance()');
		like($result->{out}, qr/"success"/, "a call goes through after $after")
		  or diag("$result->{out}$result->{err}");
		my @journal = $sandbox->journal;
		is(scalar(@journal), 1, "it is one request after $after");
		my @astray = grep {
			$_->{user_agent} !~ /^tegro-/
			  || signed_with($_->{body}, $_->{authorization}, %keys) ne 'the canary'
		} @journal;
		is(scalar(@astray), 0, "what was sent is as if nobody had tried $after");
	};

	# Ways to set one, with the SQLSTATE by which each fails for an ordinary role,
	# and for a superuser.
	my $quoted = sub { return "$_[0] = " . quote($_[1]) };
	my $function_with = sub {
		my ($clauses, $body) = @_;
		return "CREATE FUNCTION tricky() RETURNS jsonb $clauses AS " . quote($body);
	};
	my $set = sub { return 'SET ' . $quoted->(@_) };
	my $set_local = sub { return 'SET LOCAL ' . $quoted->(@_) };
	my @ways = (
		{ name => 'SET', statement => $set },
		{ name => 'SET SESSION', statement => sub { return 'SET SESSION ' . $quoted->(@_) } },
		{ name => 'SET to DEFAULT', statement => sub { return "SET $_[0] TO DEFAULT" } },
		{ name => 'RESET', statement => sub { return "RESET $_[0]" } },
		{ name => 'SET LOCAL', in_transaction => 1, statement => $set_local },
		{
			name => 'set_config',
			statement => sub { return "SELECT set_config('$_[0]', " . quote($_[1]) . ', false)' }
		},
		{
			name => 'set_config in a transaction',
			in_transaction => 1,
			statement => sub { return "SELECT set_config('$_[0]', " . quote($_[1]) . ', true)' }
		},
		{
			name => 'an UPDATE of pg_settings',
			statement => sub { return 'UPDATE pg_settings SET setting = ' . quote($_[1]) . " WHERE name = '$_[0]'" },
			# it has no row of those
			hidden => { ordinary => qr/credentials_file|proxy/, superuser => qr/proxy/ }
		},
		{
			name => 'SET LOCAL inside a function',
			before => sub {
				return $function_with->('LANGUAGE plpgsql', 'BEGIN ' . $set_local->(@_) . '; RETURN tegro_balance(); END');
			},
			statement => sub { return 'SELECT tricky()' },
			after => 'DROP FUNCTION tricky()'
		},
		{
			name => 'SET LOCAL inside a function of a superuser',
			before => sub {
				return $function_with->('LANGUAGE plpgsql SECURITY DEFINER', 'BEGIN ' . $set_local->(@_) . '; RETURN tegro_balance(); END');
			},
			before_by => $admin,
			statement => sub { return 'SELECT tricky()' },
			after => 'DROP FUNCTION tricky()'
		},
		{
			name => 'SET of a function',
			statement => sub { return $function_with->('LANGUAGE sql SET ' . $quoted->(@_), 'SELECT tegro_balance()') }
		},
		{
			name => 'ALTER FUNCTION',
			before => sub { return $function_with->('LANGUAGE sql', 'SELECT tegro_balance()') },
			statement => sub { return 'ALTER FUNCTION tricky() SET ' . $quoted->(@_) },
			after => 'SELECT tricky(); DROP FUNCTION tricky()'
		},
		{ name => 'ALTER ROLE of himself', statement => sub { return 'ALTER ROLE CURRENT_USER SET ' . $quoted->(@_) } },
		{
			name => 'ALTER ROLE of himself in a database',
			statement => sub { return 'ALTER ROLE CURRENT_USER IN DATABASE postgres SET ' . $quoted->(@_) }
		},
		{
			name => 'ALTER ROLE of another',
			ordinary => '42501',
			statement => sub { return 'ALTER ROLE bob SET ' . $quoted->(@_) }
		},
		{ name => 'ALTER ROLE ALL', ordinary => '42501', statement => sub { return 'ALTER ROLE ALL SET ' . $quoted->(@_) } },
		{ name => 'ALTER DATABASE', ordinary => '42501', statement => sub { return 'ALTER DATABASE postgres SET ' . $quoted->(@_) } },
		{ name => 'ALTER DATABASE of his own', statement => sub { return 'ALTER DATABASE of_alice SET ' . $quoted->(@_) } },
		# a superuser may: see the sections that follow
		{ name => 'ALTER SYSTEM', ordinary => '42501', superuser => '', statement => sub { return 'ALTER SYSTEM SET ' . $quoted->(@_) } });
	$node->safe_psql('postgres', 'CREATE DATABASE of_alice OWNER alice');
	# what can be granted to an ordinary role does not suffice either
	ask($admin, "GRANT SET ON PARAMETER $_ TO alice") foreach @settings;

	foreach my $who ('ordinary', 'superuser')
	{
		my $session = $who eq 'ordinary' ? open_session('alice') : session($node);

		foreach my $way (@ways)
		{
			next if ($way->{$who} // '55P02') eq '';
			my $by = "$way->{name}, by " . ($who eq 'ordinary' ? 'an ordinary role' : 'a superuser');

			foreach my $setting (@settings)
			{
				my $value = $evil_values{$setting};

				if ($way->{hidden} && $setting =~ $way->{hidden}{$who})
				{
					my $result = ask($session, $way->{statement}->($setting, $value));
					is("$result->{out}$result->{err}", '', "$setting can't be set by $by: there is no such row");
					next;
				}
				is(ask($way->{before_by} // $session, $way->{before}->($setting, $value))->{err}, '', "before $by")
				  if $way->{before};
				ask($session, q{BEGIN; SET LOCAL tegro.shop_id = 'of the transaction'; SAVEPOINT s}) if $way->{in_transaction};
				my $result = ask($session, $way->{statement}->($setting, $value));
				is($result->{sqlstate}, $way->{$who} // '55P02', "$setting can't be set by $by");
				is($result->{message}, $cannot->($setting), "$setting, $by: the error says so")
				  if $result->{sqlstate} eq '55P02';
				is(scalar(() = $result->{err} =~ /^(?:ERROR|WARNING|FATAL):/mg), 1, "$setting, $by: it is one error")
				  or diag($result->{err});
				if ($way->{in_transaction})
				{
					is(ask($session, 'ROLLBACK TO s; SHOW tegro.shop_id')->{out}, 'of the transaction',
						"$setting, $by: the transaction goes on after a savepoint");
					is(ask($session, 'COMMIT')->{err}, '', "$setting, $by: and commits");
				}
				ask($way->{before_by} // $session, $way->{after}) if $way->{after};
				is($values->($session), $values->($who eq 'ordinary' ? 'alice' : undef),
					"$setting, $by: a new session has the values that this one has");
			}
			is(ask($session, 'SHOW tegro.shop_id')->{out}, SHOP, "other settings are as they were after $by");
			$is_undisturbed->($session, $by);
		}
		is($values->(undef), $as_configured, 'the values are the administrator\'s');

		# with the connection
		foreach my $setting (@settings)
		{
			my $by = 'PGOPTIONS, by ' . ($who eq 'ordinary' ? 'an ordinary role' : 'a superuser');
			local $ENV{PGOPTIONS} = "-c $setting=$evil_values{$setting}";
			my $from = -s $node->logfile;
			my ($out, $err) = ('', '');
			my $ok = IPC::Run::run(
				[ 'psql', '-XqAt', '-d', $node->connstr('postgres') . ($who eq 'ordinary' ? ' user=alice' : ''), '-c', 'SELECT tegro_balance()' ],
				'<', \undef, '>', \$out, '2>', \$err);

			$told .= "$out$err";
			ok(!$ok, "no connection is made with $setting by $by");
			is($out, '', "$setting, $by: nothing runs");
			like($err, qr/FATAL:  \Q@{[ $cannot->($setting) ]}\E$/, "$setting, $by: the error says so");
			is(scalar(() = $err =~ /(?:ERROR|WARNING|FATAL):/g), 1, "$setting, $by: it is one error");
			ok(wait_until(sub { slurp_file($node->logfile, $from) =~ /FATAL:  55P02: \Q@{[ $cannot->($setting) ]}\E/ }, 10),
				"$setting, $by: with SQLSTATE 55P02");
		}
		is(scalar($sandbox->journal), 1, 'and nothing was sent');
		$is_undisturbed->($session, 'PGOPTIONS');
		$session->close;
	}
	# whatever was tried, nothing is kept for sessions that come
	$is_undisturbed->('alice', 'all of it, in a new session');
	$is_undisturbed->(undef, 'all of it, in a new session of a superuser');
	is($evil->connections, 0,
		'no request went where a role, or the environment, wanted it to go');
	is( ask($admin, q{SELECT count(*) FROM pg_db_role_setting WHERE setconfig::text LIKE '%tegro%'}
		)->{out},
		'0',
		'none of it is stored');
	is(ask($admin, q{SELECT count(*) FROM pg_proc WHERE proconfig::text LIKE '%tegro%'})->{out}, '0', 'nor with a function');
	my $auto_conf = slurp_file($node->data_dir . '/postgresql.auto.conf');
	unlike($auto_conf, qr/tegro/, 'nor in a configuration file');
	ask($admin, "REVOKE SET ON PARAMETER $_ FROM alice") foreach @settings;
	$node->safe_psql('postgres', 'DROP DATABASE of_alice');

	# This listener can be reached, else it would prove nothing.
	set_server($node, { 'tegro.api_url' => "http://$evil_address/api" }, $admin);
	ask($admin, 'SET tegro.read_retries = 0; SELECT tegro_balance(); RESET tegro.read_retries');
	cmp_ok($evil->connections, '>', 0, 'an administrator could send requests there');
	set_server($node, { 'tegro.api_url' => undef }, $admin);
}


#
# The address of the API
#

{
	my @bad = (
		'', ' ',
		'host', '//host/',
		'file:///etc/passwd', 'file://localhost/etc/passwd',
		'ftp://host/', 'gopher://host/',
		'dict://host/', 'unix:///tmp/socket',
		'javascript:alert(1)', 'http://example.com/api',
		'http://127.0.0.1@evil/', 'http://127.0.0.1:80@evil/',
		'http://127.0.0.1.evil.com', 'http://localhost.evil',
		'http://localhost@evil/', 'http://evil/127.0.0.1',
		'http://evil#127.0.0.1', 'http://evil?127.0.0.1',
		'https://user:pw@host/', 'https://user@host/',
		'https://@host/', 'http://2130706433/',
		'http://0x7f000001/', 'http://0177.0.0.1/',
		'http://127.1/', 'http://0.0.0.0/',
		'http://[::]/', 'http://[::2]/',
		'http://[::1', 'http://[::1]evil/',
		'http://[::1]@evil/', 'http://[::1%25lo]/',
		'https://::1/', 'http://128.0.0.1/',
		'http://169.254.169.254/', 'http://10.0.0.1/',
		'https://', 'https:///api',
		'https:/host/', 'https//host/',
		'https:host', "https:\\\\host\\api",
		'https://host\\@evil/', 'https://host/a\\b',
		'http://127.0.0.1\\@evil/', 'http://127.0.0.1#@evil/',
		'https://host:0/', 'https://host:65536/',
		'https://host:99999999999999999999/', 'https://host:/',
		'https://host:443:443/', 'https://host:-1/',
		'https://host:+1/', 'https://host: 1/',
		'https://host:1x/', 'https://host?x=1',
		'https://host/?x=1', 'https://host/#x',
		'https://host/%2e%2e/', 'https://h%6fst/',
		' https://host/', 'https://host/ ',
		'https://ho st/', 'https://host/a b',
		"https://host/\r\nX-Evil: 1", "https://host\r\n",
		"https://host\n", "\nhttps://host",
		"https://ho\tst/", "https://host/\x01",
		"https://host/\x7f", "https://h\xc3\xb6st/",
		"https://host/\xd0\xb0pi", 'https://host/{a,b}',
		'https://host/[1-9]', 'https://host/$HOME',
		'https://host/*', 'https://host/a;b',
		'https://host,evil/', "https://host/'",
		'https://host/"');
	my @good = (
		'https://tegro.money/api', 'https://tegro.money/api/',
		'https://tegro.money', 'HTTPS://host:65535/a-b_c.d~e/',
		'https://[2001:db8::1]:443/api', 'https://2130706433/',
		'http://127.0.0.1:8080/api', 'http://127.255.255.254/',
		'http://localhost/api', 'HTTP://LocalHost:1/',
		'http://[::1]:1/');

	foreach my $url (@bad)
	{
		my $shown = $url =~ s/([^ -~])/sprintf('\\x%02x', ord($1))/ger;
		my $result = ask($admin, 'ALTER SYSTEM SET tegro.api_url = ' . quote_bytes($url));

		is($result->{sqlstate}, '22023', "tegro.api_url can't be \"$shown\"");
		like(
			$result->{detail},
			qr{https://|http://127\.0\.0\.1},
			"and the valid form is said for \"$shown\"");
	}
	is(ask($admin, q{ALTER SYSTEM SET tegro.api_url = E'https://host\000/'})->{sqlstate},
		'22021', "tegro.api_url can't contain a NUL");
	# nor by a line in a file
	my $conf = slurp_file($node->data_dir . '/postgresql.conf');
	my $from = -s $node->logfile;
	$node->append_conf('postgresql.conf', "tegro.api_url = 'http://example.com/api'");
	reload_conf($node);
	like(
		slurp_file($node->logfile, $from),
		qr/invalid value for parameter "tegro\.api_url": .*Plain http is only for an address of this machine/s,
		'the log says what is wrong with an address in postgresql.conf');
	spew($node->data_dir . '/postgresql.conf', $conf);
	reload_conf($node);
	is(ask($_, 'SHOW tegro.api_url')->{out}, $sandbox->api_url, 'it is still what it was') foreach $admin, undef;
	foreach my $url (@good)
	{
		set_server($node, { 'tegro.api_url' => $url }, $admin);
		is(ask($admin, 'SHOW tegro.api_url')->{out}, $url =~ s{/+$}{}r, "tegro.api_url can be \"$url\"");
	}

	ask($admin, q{SET tegro.read_retries = 0; SET tegro.connect_timeout = '1s'});
	set_server($node, { 'tegro.api_url' => 'http://[::1]:1/' }, $admin);
	is(ask($admin, 'SELECT tegro_balance()')->{sqlstate},
		'TG002', 'a call to [::1], where nobody listens, is not sent');
	foreach my $host ('169.254.169.254', '[fe80::1]', '[::ffff:169.254.169.254]')
	{
		set_server($node, { 'tegro.api_url' => "https://$host/" }, $admin);
		my $result = ask($admin, 'SELECT tegro_balance()');

		is($result->{sqlstate}, 'TG006', "a link-local address, $host, is refused");
		like($result->{detail}, qr/link-local/, 'and the error says so');
	}
	ask($admin, 'RESET tegro.read_retries; RESET tegro.connect_timeout');
	set_server($node, { 'tegro.api_url' => undef }, $admin);

	foreach my $setting (qw(tegro.user_agent tegro.ca_file tegro.proxy tegro.shop_id))
	{
		my $start = $setting eq 'tegro.proxy' ? 'http://host' : 'x';
		foreach my $bytes ("\r\nX-Evil: 1", "\n", "\r", "\x01", "\x7f")
		{
			my $set = $setting eq 'tegro.shop_id' ? 'SET' : 'ALTER SYSTEM SET';

			is(ask($admin, "$set $setting = " . quote_bytes($start . $bytes))->{sqlstate},
				'22023', "$setting can't contain control characters");
		}
	}
	foreach my $setting (qw(tegro.api_key tegro.secret_key))
	{
		my $result = $admin->query("SET $setting = E'not-to-be-shown\\nX-Evil: 1'");

		is($result->{sqlstate}, '22023', "$setting can't contain line breaks");
		unlike($result->{err}, qr/not-to-be-shown|X-Evil/, 'and the error does not show it');
	}
}


#
# Line breaks and quotes stay data
#

{
	my $raw = raw_server(
		sub {
			my ($socket) = @_;
			my $answer = '{"type":"success","desc":"","data":{"id":1}}';
			while (read_request($socket))
			{
				syswrite($socket,
					"HTTP/1.1 200 OK\r\nContent-Length: " . length($answer) . "\r\n\r\n$answer");
			}
		});
	my $bob = open_session('bob');
	set_server($node, { 'tegro.api_url' => $raw->url }, $bob);

	my @hostile = (
		"a\r\nX-Evil: 1\r\n\r\nGET /evil HTTP/1.1\r\nHost: evil\r\n\r\n",
		"a\nX-Evil: 1",
		"a\rX-Evil: 1",
		qq(", "evil": "1),
		qq(\\", \\"evil\\": \\"1),
		'"}',
		"'; SELECT 1; --",
		"\x01\x1b[2J\x7f",
		'\\u0022,\\u0022evil\\u0022:1',
		'$(evil)`evil`%n%s%00');

	# Function call => the method asked for and the params that must arrive.
	my @calls;
	foreach my $text (@hostile)
	{
		my $sql = quote_bytes($text);
		my $object =
		  "jsonb_build_object($sql, $sql, 'order_id', $sql, 'currency', $sql, 'amount', 1, 'in', jsonb_build_array($sql))";
		my $params = { $text => $text, order_id => $text, currency => $text, amount => 1, in => [$text] };

		push @calls,
		  [ "tegro_call('balance', $object)", 'balance', $params ],
		  [ "tegro_call('newMethod1', $object)", 'newMethod1', $params ],
		  [
			"tegro_call('balance', jsonb_build_object('shop_id', $sql))",
			'balance', { shop_id => $text }
		  ],
		  [ "tegro_create_order($object)", 'createOrder', $params ],
		  [ "tegro_order(payment_id => $sql)", 'order', { payment_id => $text } ],
		  [ "tegro_order($sql)", 'order', { payment_id => $text } ],
		  [ "tegro_withdrawal(payment_id => $sql)", 'withdrawal', { payment_id => $text } ],
		  [ "tegro_withdrawal($sql)", 'withdrawal', { payment_id => $text } ],
		  [ "tegro_rates($sql, $sql)", 'rates', { from => $text, to => $text } ],
		  [ "tegro_batch('orders', ARRAY[$object])", 'orders', $params ];
	}

	# the key for shops that no line of the file names
	ask($admin, 'GRANT SET ON PARAMETER tegro.api_key TO bob');
	ask($bob, q{SET tegro.api_key = 'of the session'});
	ask($admin, 'REVOKE SET ON PARAMETER tegro.api_key FROM bob');
	my $before = scalar($raw->requests);
	my $failed = grep { ask($bob, "SELECT $_->[0]")->{sqlstate} ne '' } @calls;
	my @requests = $raw->requests;
	splice(@requests, 0, $before);
	is($failed, 0, 'hostile strings are sent in every argument of every function');
	is(scalar(@requests), scalar(@calls), 'each is one request');

	my $json = JSON::PP->new->canonical;
	my @wrong;
	foreach my $call (@calls)
	{
		my ($sql, $method, $params) = @$call;
		my $request = shift @requests // { head => '', body => '' };
		my ($line, @headers) = split(/\r\n/, $request->{head});
		my @names = map { /^([\w-]+): / ? lc($1) : "no header: $_" } @headers;
		my %got = %{ $request->{params} // {} };

		delete $got{nonce};
		push @wrong, "$sql\n$request->{head}\n$request->{body}\n"
		  unless ($line // '') eq "POST /api/$method/ HTTP/1.1"
		  && "@{[sort @names]}" eq
		  'accept authorization content-length content-type host user-agent'
		  && $request->{head} =~ /^Authorization: Bearer [0-9a-f]{64}\r$/m
		  && $request->{head} =~ /^Content-Length: (\d+)\r?$/m
		  && $1 == length($request->{body})
		  && $request->{body} !~ /[^ -\x7f]/
		  && $json->encode(\%got) eq $json->encode({ shop_id => SHOP, %$params });
	}
	is(join("\n", @wrong),
		'', 'each arrives as the data that it is, in a request with its six headers');

	# in the name of a method they are refused, and in tegro.shop_id they are data
	foreach my $text (
		@hostile, 'balance/../shops', 'balance/', 'balance ',
		' balance', 'balance?x', 'balance%2f', '',
		'1balance', 'x' x 65, "balanc\xc3\xa9")
	{
		is(ask($bob, 'SELECT tegro_call(' . quote_bytes($text) . ')')->{sqlstate},
			'22023', 'such a method is refused');
		is( ask($bob, 'SELECT tegro_batch(' . quote_bytes($text) . q{, ARRAY['{}'::jsonb])})
			  ->{sqlstate},
			'22023',
			'in a batch, too');
	}
	is(scalar($raw->requests), $before + @calls, 'nothing of it arrived');
	my @plain = grep { !/[\x00-\x1f\x7f]/ } @hostile;
	ask($bob, 'SET tegro.shop_id = ' . quote_bytes($_) . '; SELECT tegro_balance()') foreach @plain;
	is_deeply(
		[
			map { $_->{params}{shop_id} }
			  ($raw->requests)[ $before + @calls .. $before + @calls + $#plain ]
		],
		\@plain,
		'tegro.shop_id stays data');
	$bob->close;

	# What it sent is not shown where the answer sends it back.
	my $echo = raw_server(
		sub {
			my ($socket) = @_;
			my $request = read_request($socket) or return;
			my ($authorization) = $request->{head} =~ /^Authorization: (.*)\r$/m;
			my $answer = "<html>$authorization " . KEY . ' ' . SECRET;
			$answer = '{"type":"error","desc":"' . $answer . '"}'
			  if $request->{head} =~ m{/api/shops/};
			print {$socket} "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: "
			  . length($answer)
			  . "\r\n\r\n$answer";
		});
	set_server($node, { 'tegro.api_url' => $echo->url }, $admin);
	foreach my $call (
		'tegro_balance()',
		'tegro_shops()',
		q{tegro_call('newMethod')},
		q{tegro_create_order('{"order_id": "1", "currency": "RUB", "amount": 1}')},
		q{(tegro_batch('balance', ARRAY['{}'::jsonb]))})
	{
		my $result = ask($admin, "SELECT $call");

		like(
			"$result->{out}$result->{err}",
			qr/Bearer \*{8} \*{8} \*{8}/,
			"a signature and keys that an answer sends back are masked: $call");
	}
	set_server($node, { 'tegro.api_url' => undef }, $admin);
}


#
# Payouts
#

# The sandbox's withdrawals, payment_id => times that it was executed.
sub withdrawals
{
	my $state = $sandbox->control('GET', 'state?shop_id=' . SHOP)->{data};

	BAIL_OUT('the sandbox does not tell its withdrawals')
	  unless ref $state->{withdrawals} eq 'ARRAY';
	return scalar(@{ $state->{withdrawals} });
}

{
	my $alice = open_session('alice');
	my $clerk = open_session('mallory');
	my $outbox = sub { return ask($admin, 'SELECT count(*) FROM tegro_outbox')->{out} };
	my $params = sub {
		my ($number) = @_;
		return
		  qq{'{"currency": "RUB", "account": "4111", "amount": 1, "payment_id": "$number", "payment_system": 1}'::jsonb};
	};

	# one who may call, enqueue and look, but not pay out
	ask($admin, <<'SQL');
GRANT EXECUTE ON FUNCTION tegro_call(text, jsonb), tegro_batch(text, jsonb[]), tegro_preview(text, jsonb),
	tegro_enqueue(text, jsonb, regprocedure, timestamptz) TO mallory
SQL
	$sandbox->begin;
	foreach my $method (
		'createWithdrawal', 'createwithdrawal',
		'CREATEWITHDRAWAL', 'CreateWithdrawal',
		'createWithdrawal ', ' createWithdrawal',
		'createWithdrawal/', '/createWithdrawal',
		'createWithdrawal?', 'createWithdrawal%20',
		'create%57ithdrawal', 'x/../createWithdrawal',
		"createWithdrawal\n", "create\xe2\x80\x8bWithdrawal",
		"\xd1\x81reateWithdrawal")
	{
		my $named = $method eq 'createWithdrawal';
		my $shown = $method =~ s/([^ -~])/sprintf('\\x%02x', ord($1))/ger;
		my $sql = quote_bytes($method);
		my %calls = (
			tegro_call => "tegro_call($sql, @{[$params->(1)]})",
			tegro_enqueue => "tegro_enqueue($sql, @{[$params->(1)]})",
			tegro_batch => "tegro_batch($sql, ARRAY[@{[$params->(1)]}])");

		foreach my $call (sort keys %calls)
		{
			is( ask($clerk, "SELECT $calls{$call}")->{sqlstate},
				!$named ? '22023' : $call eq 'tegro_batch' ? '0A000' : '42501',
				"$call refuses \"$shown\" to a role that may not pay out");
			# for who may pay out, they are the way through the outbox
			next if $named && $call ne 'tegro_batch';
			is( ask($alice, "SELECT $calls{$call}")->{sqlstate},
				$named ? '0A000' : '22023',
				"$call refuses \"$shown\" to one that may");
		}
	}
	is(scalar($sandbox->journal), 0, 'nothing of it was sent');
	is(withdrawals(), 0, 'no withdrawal was made');
	is($outbox->(), 0, 'nothing is on record');

	foreach my $call (
		'tegro_create_withdrawal(%s)',
		q{tegro_call('createWithdrawal', %s)},
		q{tegro_wait(tegro_enqueue('createWithdrawal', %s))})
	{
		my $number = $outbox->() + 1;
		my $statement = sprintf("SELECT $call", $params->($number));

		# tegro_wait needs a transaction of its own
		my $result = $call =~ /wait/
		  ? ask(
			$alice,
			sprintf(
				q{SELECT tegro_enqueue('createWithdrawal', %s) AS id \gset
			SELECT tegro_wait(:id)}, $params->($number)))
		  : ask($alice, $statement);
		like($result->{out}, qr/"success"/, "who may pay out does so by $call")
		  or diag($result->{err});
		ask($alice,
			$call =~ /wait/
			? sprintf(q{SELECT tegro_enqueue('createWithdrawal', %s)}, $params->($number))
			: $statement);
		is($outbox->(), $number, 'it is on record, once');
		is(withdrawals(), $number, 'it was made once, though it was asked for twice');
	}
	is(scalar(grep { $_->{method} eq 'createWithdrawal' } $sandbox->journal),
		3, 'each was sent once');


	#
	# Others' requests
	#

	my $id = ask($admin, 'SELECT min(id) FROM tegro_outbox')->{out};
	my $bob = open_session('bob');
	my $before = ask($admin, 'TABLE tegro_outbox')->{out};
	ask($admin, 'GRANT SELECT ON tegro_outbox, tegro_event, tegro_outbox_summary TO alice, bob');
	foreach my $table (qw(tegro_outbox tegro_event tegro_outbox_summary))
	{
		isnt(ask($alice, "SELECT count(*) FROM $table")->{out},
			'0', "a role sees its own rows in $table");
		is(ask($bob, "SELECT count(*) FROM $table")->{out}, '0', "another role does not see them");
	}
	foreach my $call (
		"tegro_wait($id)", "tegro_cancel($id)",
		"tegro_retry($id)", "tegro_resolve($id, 'refused', 'mine')")
	{
		isnt(ask($bob, "SELECT $call")->{sqlstate}, '', "another role can't $call");
	}
	foreach my $statement (
		"UPDATE tegro_outbox SET state = 'ready'", 'DELETE FROM tegro_outbox',
		'TRUNCATE tegro_outbox',
		'DELETE FROM tegro_event', 'TABLE tegro_origin',
		"UPDATE tegro_origin SET reason = 'x'",
		q{INSERT INTO tegro_outbox (shop_id, method, reference, params, enqueued_by, origin)
			VALUES ('x', 'createWithdrawal', 'x', '{}', 'postgres'::regrole, 'x')},
		'ALTER TABLE tegro_outbox DISABLE ROW LEVEL SECURITY',
		'ALTER TABLE tegro_outbox OWNER TO alice',
		q{SELECT setval('tegro_outbox_id_seq', 1)}, q{SELECT nextval('tegro_outbox_id_seq')})
	{
		is(ask($alice, $statement)->{sqlstate},
			'42501', "an ordinary role can't " . ($statement =~ s/\s+/ /gr));
	}
	is(ask($admin, 'TABLE tegro_outbox')->{out}, $before, 'the outbox is as it was');
	ask($admin, <<'SQL');
REVOKE EXECUTE ON FUNCTION tegro_call(text, jsonb), tegro_batch(text, jsonb[]), tegro_preview(text, jsonb),
	tegro_enqueue(text, jsonb, regprocedure, timestamptz) FROM mallory
SQL
	$_->close foreach $alice, $bob, $clerk;
}


#
# Whose keys
#

{
	# the sandbox does not know the shop, and a batch makes a row of that
	my $call = q{SELECT sqlstate FROM tegro_batch('orders', ARRAY['{"shop_id": "RIGHTS"}'::jsonb])};
	# whose they are that a statement's requests were signed with
	my $whose = sub {
		my ($who, $sql) = @_;
		my $before = $sandbox->journal;
		my $result = ask($who, $sql);
		my @sent = $sandbox->journal;

		return $result->{sqlstate} if @sent == $before;
		return join(', ', map { signed_with($_->{body}, $_->{authorization}, %keys) } @sent[ $before .. $#sent ]);
	};
	ask($admin, <<"SQL");
SET ROLE definer;
CREATE FUNCTION as_definer() RETURNS text LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS \$\$ $call \$\$;
CREATE FUNCTION as_caller() RETURNS text LANGUAGE sql AS \$\$ $call \$\$;
RESET ROLE
SQL

	is($whose->('alice', $call), 'alice', "a role's own line of the file is taken");
	is($whose->('definer', $call), 'the definer', "another role's for that role");
	is($whose->('bob', $call), 'TG006', 'and none for one that is in none');
	is($whose->('alice', 'SELECT as_definer()'),
		'the definer', 'a SECURITY DEFINER function acts with the keys of its owner');
	is($whose->('alice', 'SELECT as_caller()'),
		'alice', 'another function with those of the caller');
	is($whose->('bob', 'SELECT as_definer()'), 'the definer', 'also for who has no keys');
	is( $whose->('alice', 'SELECT as_caller() UNION ALL SELECT as_definer() UNION ALL SELECT as_caller()'),
		'alice, the definer, alice',
		'also within one statement');

	my $session = session($node);
	is($whose->($session, $call),
		'TG006', "a superuser is not taken for a member of every role");
	is($whose->($session, "SET ROLE alice; $call"),
		'alice', 'SET ROLE: the keys of the current role');
	is($whose->($session, "SET ROLE definer; $call"), 'the definer', 'and of the next');
	is($whose->($session, "SET ROLE bob; $call"), 'TG006',
		'and none for one that has none');
	is($whose->($session, "RESET ROLE; $call"), 'TG006', 'and RESET ROLE ends that');
	is($whose->($session, "SET SESSION AUTHORIZATION alice; $call"),
		'alice', 'SET SESSION AUTHORIZATION: the same');
	$session->close;
}


#
# The extension as an object
#

{
	my $result = ask($admin, 'CREATE SCHEMA elsewhere; ALTER EXTENSION tegro SET SCHEMA elsewhere');
	is($result->{sqlstate}, '0A000', 'the extension can\'t be moved to another schema');

	my $session = session($node);
	$result = ask($session, <<'SQL');
BEGIN;
DROP EXTENSION tegro;
CREATE EXTENSION tegro SCHEMA elsewhere;
SELECT elsewhere.tegro_balance();
SELECT body FROM elsewhere.tegro_preview('balance');
ROLLBACK;
SELECT tegro_balance();
SELECT body FROM tegro_preview('balance')
SQL
	is($result->{err}, '', 'dropped and created again in one session, it works');
	is(scalar(() = $result->{out} =~ /"success"/g), 2, 'its calls do');
	is(scalar(() = $result->{out} =~ /^\{"nonce":/mg), 2, 'its previews do');
	$session->close;

	is(ask('mallory', 'CREATE EXTENSION tegro SCHEMA public')->{sqlstate},
		'42710', 'it exists once a database');
	$node->safe_psql('postgres', 'CREATE DATABASE hostile');
	$session = open_session('mallory', database => 'hostile');
	is(ask($session, 'CREATE SCHEMA own')->{sqlstate},
		'42501', 'an ordinary role may not create in a database');
	$session->close;
	$node->safe_psql('hostile', 'GRANT CREATE ON DATABASE hostile TO mallory');
	$session = open_session('mallory', database => 'hostile');
	is(ask($session, 'CREATE EXTENSION tegro')->{sqlstate},
		'42501',
		'an ordinary role may not create the extension, though it may create in the database');
	$session->close;
}


#
# Hostile objects
#

{
	my $super = session($node, database => 'hostile');
	ask($super, 'CREATE SCHEMA target; GRANT CREATE, USAGE ON SCHEMA target TO mallory');
	my $mallory = open_session('mallory', database => 'hostile');

	foreach my $function (@functions)
	{
		my $signature = $function->{signature};

		my $result = ask($mallory,
			"CREATE FUNCTION target.$signature RETURNS jsonb LANGUAGE sql AS 'SELECT NULL::jsonb'");
		is($result->{err}, '', "an ordinary role makes a function $signature first");
		is(ask($super, 'CREATE EXTENSION tegro SCHEMA target')->{sqlstate},
			'42723', 'then the extension is not created');
		ask($mallory, "DROP FUNCTION target.$signature");
	}

	foreach my $relation (@relations)
	{
		ask($mallory, "CREATE TABLE target.$relation (a pg_catalog.int4)");
		# (a sequence's name that is taken shows when it is to be dumped)
		like(ask($super, 'CREATE EXTENSION tegro SCHEMA target')->{sqlstate},
			qr/^(42P07|55000)$/, "nor where there is a table $relation");
		ask($mallory, "DROP TABLE target.$relation");
	}

	# Functions, operators and types that take over what is not qualified.
	my $trap =
	  q{LANGUAGE plpgsql AS $$ BEGIN RAISE WARNING 'the trap closed on %', current_user; RETURN NULL; END $$};
	my $result = ask($mallory, <<"SQL");
SET search_path = target, pg_catalog;
CREATE FUNCTION target.trap_texts(pg_catalog.text, pg_catalog.text) RETURNS pg_catalog.bool $trap;
CREATE FUNCTION target.trap_jsonbs(pg_catalog.jsonb, pg_catalog.jsonb) RETURNS pg_catalog.bool $trap;
CREATE FUNCTION target.trap_names(pg_catalog.name, pg_catalog.name) RETURNS pg_catalog.bool $trap;
CREATE FUNCTION target.trap_oids(pg_catalog.oid, pg_catalog.oid) RETURNS pg_catalog.bool $trap;
CREATE OPERATOR target.= (LEFTARG = pg_catalog.text, RIGHTARG = pg_catalog.text, FUNCTION = target.trap_texts);
CREATE OPERATOR target.|| (LEFTARG = pg_catalog.text, RIGHTARG = pg_catalog.text, FUNCTION = target.trap_texts);
CREATE OPERATOR target.= (LEFTARG = pg_catalog.jsonb, RIGHTARG = pg_catalog.jsonb, FUNCTION = target.trap_jsonbs);
CREATE OPERATOR target.= (LEFTARG = pg_catalog.name, RIGHTARG = pg_catalog.name, FUNCTION = target.trap_names);
CREATE OPERATOR target.= (LEFTARG = pg_catalog.oid, RIGHTARG = pg_catalog.oid, FUNCTION = target.trap_oids);
CREATE FUNCTION target.lower(pg_catalog.text) RETURNS pg_catalog.text $trap;
CREATE FUNCTION target.now() RETURNS pg_catalog.timestamptz $trap;
CREATE FUNCTION target.format(pg_catalog.text, VARIADIC pg_catalog.text[]) RETURNS pg_catalog.text $trap;
CREATE FUNCTION target.current_setting(pg_catalog.text) RETURNS pg_catalog.text $trap;
CREATE FUNCTION target.set_config(pg_catalog.text, pg_catalog.text, pg_catalog.bool) RETURNS pg_catalog.text $trap;
CREATE FUNCTION target.jsonb_build_object(VARIADIC pg_catalog.text[]) RETURNS pg_catalog.jsonb $trap;
CREATE DOMAIN target.text AS pg_catalog.int4 CHECK (value < 0);
CREATE DOMAIN target.jsonb AS pg_catalog.int4 CHECK (value < 0);
CREATE DOMAIN target.int8 AS pg_catalog.int4 CHECK (value < 0);
CREATE DOMAIN target.int4 AS pg_catalog.text CHECK (false);
CREATE DOMAIN target.bool AS pg_catalog.text CHECK (false);
CREATE DOMAIN target.timestamptz AS pg_catalog.text CHECK (false);
CREATE DOMAIN target."interval" AS pg_catalog.text CHECK (false);
SELECT 'a'::pg_catalog.text = 'a'::pg_catalog.text
SQL
	like($result->{err}, qr/the trap closed on mallory/, 'the traps work');
	unlike($result->{err}, qr/ERROR/, 'all were made');

	$result = ask($super, <<'SQL');
SET search_path = target, pg_catalog;
CREATE EXTENSION tegro SCHEMA target;
SELECT count(*) FROM (SELECT tegro_balance()) _;
SELECT headers IS NOT NULL FROM tegro_preview('balance');
SELECT count(*) FROM tegro_batch('balance', ARRAY['{}', '{}']::pg_catalog.jsonb[]);
SELECT 'done: ' OPERATOR(pg_catalog.||) pg_catalog.count(*) FROM pg_catalog.pg_proc p, pg_catalog.unnest(p.proargtypes) t
	WHERE p.proname LIKE 'tegro%' AND p.pronamespace OPERATOR(pg_catalog.=) 'target'::regnamespace::pg_catalog.oid
	AND t OPERATOR(pg_catalog.=) ANY (SELECT ty.oid FROM pg_catalog.pg_type ty
		WHERE ty.typnamespace OPERATOR(pg_catalog.=) 'target'::regnamespace::pg_catalog.oid)
SQL
	is($result->{err}, '',
		'the extension is created and used among hostile objects, and no trap closes');
	is( $result->{out},
		"1\nt\n2\ndone: 0",
		'it works, and its functions take the types of pg_catalog');

	is(ask($mallory, 'SELECT target.tegro_balance()')->{sqlstate},
		'42501', 'who made them may still not call');
	is( ask($mallory,
			'CREATE OR REPLACE FUNCTION target.tegro_balance() RETURNS pg_catalog.jsonb LANGUAGE sql AS $$ SELECT NULL::pg_catalog.jsonb $$'
		)->{sqlstate},
		'42501',
		'nor replace');
	$_->close foreach $super, $mallory;
}


#
# Keys of a session
#

{
	# Set by a bind parameter, as a program should: pgbench can, psql 15 can't.
	ask($admin, <<'SQL');
CREATE TABLE seen (n serial, what text, shown text);
GRANT INSERT ON seen TO monitor;
GRANT USAGE ON SEQUENCE seen_n_seq TO monitor;
GRANT SET ON PARAMETER tegro.api_key, tegro.secret_key TO monitor, alice
SQL
	# what was sent stands in the sandbox's journal, in the same order
	my $see = sub {
		my ($what) = @_;
		return "INSERT INTO seen (what, shown) SELECT '$what', 'sent' FROM tegro_batch('balance', ARRAY['{}'::jsonb]);\n";
	};
	my $show =
	  q{INSERT INTO seen (what, shown) SELECT 'shown', current_setting('tegro.api_key') || ' ' || current_setting('tegro.secret_key');}
	  . "\n";
	my $set =
	  "SELECT set_config('tegro.api_key', :key, false), set_config('tegro.secret_key', :key, false);\n";
	my $script = write_file('session-key.sql',
			$set
		  . $see->('set')
		  . $show
		  . "RESET ALL;\n"
		  . $see->('reset')
		  . $set
		  . $see->('set')
		  . $show
		  . "DISCARD ALL;\n"
		  . $see->('discarded')
		  . "BEGIN;\nSELECT set_config('tegro.api_key', :key, true);\n"
		  . $see->('set locally')
		  . "COMMIT;\n"
		  . $see->('committed')
		  . $set
		  . "SELECT set_config('tegro.api_key', '', false);\n"
		  . $see->('emptied'));
	my ($out, $err) = ('', '');

	$sandbox->begin;
	IPC::Run::run(
		[
			'pgbench', '-n', '-M', 'extended', '-t', 1, '-D', 'key=key-of-the-session', '-f',
			$script, $node->connstr('postgres') . ' user=monitor'
		],
		'<',
		\undef,
		'>',
		\$out,
		'2>',
		\$err) or diag($err);
	my @seen = map { [ split(/\t/, $_, 2) ] }
	  split(/\n/,
		ask($admin, q{SELECT concat_ws(E'\t', what, shown) FROM seen ORDER BY n})->{out});
	my %all_keys = (%keys, "the session's" => 'key-of-the-session');
	my @sent = map { signed_with($_->{body}, $_->{authorization}, %all_keys) } $sandbox->journal;
	my @found = map { $_->[0] eq 'shown' ? "shown $_->[1]" : "$_->[0]: " . (shift(@sent) // 'not sent') } @seen;

	is_deeply(
		\@found,
		[
			"set: the session's",
			'shown ******** ********',
			'reset: the canary',
			"set: the session's",
			'shown ******** ********',
			'discarded: the canary',
			"set locally: the session's",
			'committed: the canary',
			'emptied: the canary'
		],
		"a session's own key signs, is shown masked, and is gone after RESET ALL, after DISCARD ALL, at its transaction's end and when it is emptied"
	);

	my $alice = open_session('alice');
	$alice->query(
		q{SET tegro.api_key = 'key-of-the-session'; SET tegro.secret_key = 'key-of-the-session'}
	);
	foreach my $look (
		'SHOW tegro.api_key',
		'SHOW tegro.secret_key',
		q{SELECT current_setting('tegro.api_key')},
		'SHOW ALL',
		q{SELECT * FROM pg_settings},
		'SELECT * FROM pg_show_all_settings()',
		q{SELECT * FROM pg_settings WHERE name ~ 'key'},
		'EXPLAIN (ANALYZE, VERBOSE, SETTINGS) SELECT tegro_balance()',
		q{SELECT * FROM pg_stat_activity WHERE pid <> pg_backend_pid()},
		q{SELECT set_config('tegro.api_key', 'another', false)},
		'RESET tegro.api_key',
		'SHOW tegro.api_key')
	{
		my $result = $alice->query($look);
		unlike("$result->{out}$result->{err}",
			qr/key-of-the-session/, "a session's own key is not shown by $look");
	}
	is( $alice->query(
			q{SELECT name FROM pg_settings WHERE name IN ('tegro.api_key', 'tegro.secret_key')})
		  ->{out},
		'',
		'keys are not in pg_settings');
	$alice->close;
}


#
# Failures of every kind, with the canary as key
#

{
	my $alice = open_session('alice');
	my @calls = (
		'tegro_balance()',
		q{tegro_create_order('{"order_id": "1", "currency": "RUB", "amount": 1}')},
		q{tegro_call('newMethod')}, q{tegro_batch('orders', ARRAY['{}', '{}']::jsonb[])});
	my $page = KEY . ' ' . SECRET . ' <html>' . 'x' x 150 . KEY . SECRET . 'x' x 150;
	my %seen;

	# the last ones are repeated
	ask($alice, q{SET tegro.read_retries = 0; SET tegro.timeout = '500ms'});
	foreach my $fault (
		['close_before_read'],
		['close_after_read'],
		['execute_then_close'],
		['reset'],
		[ 'hold', ms => 1000 ],
		[ 'execute_then_hold', ms => 1000 ],
		[ 'execute_later', ms => 10 ],
		[ 'cut', bytes => 30 ],
		[ 'length', length => 5000 ],
		[ 'drip', ms => 100 ],
		(map { [ 'answer', status => $_, body => $page ] } 200, 301, 403, 404, 429, 502),
		[ 'answer', status => 200, body => qq({"type":"error","desc":"$page"}) ],
		[ 'answer', status => 500, body => qq({"type":"error","desc":"$page"}) ],
		[ 'answer', status => 200, body => qq({"type":"success","desc":"$page"}) ],
		[ 'answer', status => 200, body => qq(["$page"]) ],
		[ 'answer', status => 200, body => qq({"type":"success","data":{"$page":) ],
		[
			'answer',
			status => 200,
			body => '{"type":"success","data":{}}',
			headers => { 'Retry-After' => $page }
		],
		[ 'answer', status => 429, body => '', headers => { 'Retry-After' => '1' } ],
		[
			'answer',
			status => 302,
			body => '',
			headers => { Location => "http://$evil_address/" . KEY }
		],
		[ 'answer', status => 200, body => 'x', repeat => 2_000_000 ])
	{
		ask($alice, 'SET tegro.read_retries = 1') if ($fault->[2] // 0) eq '302';
		foreach my $call (@calls)
		{
			# what takes its time, once is enough
			next
			  if defined $fault->[1]
			  && $fault->[1] eq 'ms'
			  && $fault->[2] >= 100
			  && $call !~ /balance/;
			$sandbox->clear_faults;
			$sandbox->fault('*', @$fault, times => 3);
			my $result = ask($alice, "SELECT $call");
			$seen{ $result->{sqlstate} } = 1 if $result->{sqlstate} ne '';
			$seen{$_} = 1 foreach $result->{out} =~ /\bTG\d{3}\b/g;
		}
	}
	$sandbox->clear_faults;

	# a statement that is looked at, and cancelled, while it waits
	$sandbox->fault('*', 'hold', ms => 3000);
	ask($alice, q{SET tegro.timeout = '10s'});
	my $id;
	$alice->send(q{SELECT tegro_create_order('{"order_id": "2", "currency": "RUB", "amount": 1}')});
	ok( wait_until(
			sub {
				ask($admin,
					q{SELECT count(*) FROM pg_stat_activity WHERE query ~ '"2"' AND wait_event_type = 'Extension'}
				)->{out} ne '0';
			}),
		'a call that waits can be looked at');
	ask($_, 'SELECT * FROM pg_stat_activity') foreach $admin, 'alice', 'monitor';
	ask($admin, 'SELECT pg_cancel_backend(' . $alice->pid . ')');
	my $result = $alice->wait;
	$told .= $result->{err};
	is($result->{sqlstate}, '57014', 'and cancelled');
	$seen{57014} = 1;
	$sandbox->clear_faults;

	# Requests of the outbox: with the key of the file; with the key of the
	# session, which is handed to another process; and with an answer that sends
	# the signature back.
	my $key_file = write_file('session-key', KEY);
	ask($admin,
		'GRANT EXECUTE ON FUNCTION pg_read_file(text) TO alice; GRANT pg_read_server_files TO alice'
	);
	ask($alice, <<"SQL");
SET tegro.timeout = '5s';
SELECT tegro_enqueue('createOrder', '{"order_id": "by the worker", "currency": "RUB", "amount": 1}') AS id \\gset
SELECT tegro_wait(:id);
DO \$\$ BEGIN PERFORM set_config('tegro.api_key', pg_read_file('$key_file'), false) \; END \$\$;
SELECT tegro_create_withdrawal('{"payment_id": "by the session", "currency": "RUB", "amount": 1, "account": "1"}');
RESET tegro.api_key
SQL
	is( ask($admin,
			q{SELECT string_agg(state, ' ') FROM tegro_outbox WHERE reference LIKE 'by the%'})
		  ->{out},
		'accepted accepted',
		'requests of the outbox are signed by the keys of the file and of the session');
	ask($admin,
		'REVOKE pg_read_server_files FROM alice; REVOKE EXECUTE ON FUNCTION pg_read_file(text) FROM alice; '
		  . 'REVOKE SET ON PARAMETER tegro.api_key, tegro.secret_key FROM monitor, alice'
	);

	my $mirror = raw_server(
		sub {
			my ($socket) = @_;
			while (my $request = read_request($socket))
			{
				my ($authorization) = $request->{head} =~ /^Authorization: (.*)\r$/m;
				my $answer = "<html>$authorization";
				syswrite($socket,
						"HTTP/1.1 502 Bad Gateway\r\nContent-Length: "
					  . length($answer)
					  . "\r\n\r\n$answer");
			}
		});
	ask($alice, 'SET tegro.timeout = DEFAULT');
	set_server($node, { 'tegro.api_url' => $mirror->url }, $alice);
	$id = ask($alice,
		q{SELECT tegro_enqueue('createOrder', '{"order_id": "mirrored", "currency": "RUB", "amount": 1}')}
	)->{out};
	ok( wait_until(
			sub {
				ask($admin, "SELECT count(raw_answer) FROM tegro_event WHERE outbox_id = $id")
				  ->{out} > 0;
			}),
		'an answer that is none is kept');
	ask($admin, "SELECT tegro_resolve($id, 'refused', 'enough')");
	set_server($node, { 'tegro.api_url' => undef }, $alice);
	my ($request) = $mirror->requests;
	my ($signature) = $request->{head} =~ /Bearer (\w+)/;
	is( ask($admin,
			"SELECT count(*) FROM tegro_event WHERE encode(raw_answer, 'escape') LIKE '%$signature%'"
		)->{out},
		'0',
		'a signature that it sends back is not kept');

	# settings that are wrong
	my $closed = black_hole();
	foreach my $case (
		[ 'tegro.api_url' => 'https://127.0.0.1:1/api' ],
		[ 'tegro.api_url' => 'https://127.0.0.1:' . $closed->port . '/api', q{SET tegro.connect_timeout = '200ms'} ],
		[ 'tegro.api_url' => 'https://no-such-host.invalid/api' ],
		[ 'tegro.ca_file' => '/no/such/file' ],
		[ 'tegro.ca_file' => $certificates->{self_signed} ],
		[ 'tegro.api_url' => 'https://localhost:' . $sandbox->port . '/nowhere' ],
		# its password is in the statement, which is logged
		[ 'tegro.proxy' => 'http://user:Secret-of-proxy@127.0.0.1:1' ],
		[ undef, undef, q{SET tegro.shop_id = ''} ],
		[ undef, undef, q{SET tegro.shop_id = 'no such shop'} ])
	{
		my ($setting, $value, $more) = @$case;

		set_server($node, { $setting => $value }, $admin) if defined $setting;
		ask($admin, q{SET tegro.read_retries = 0; SET tegro.timeout = '2s'; } . ($more // ''));
		foreach my $call (@calls)
		{
			$result = ask($admin, "SELECT $call");
			$seen{ $result->{sqlstate} } = 1;
			unlike("$result->{out}$result->{err}",
				qr/Secret-of-proxy/, "the proxy's password is not in an error");
		}
		ask($admin, 'RESET ALL');
		set_server($node, { $setting => undef }, $admin) if defined $setting;
	}
	is(join(' ', grep { !$seen{$_} } qw(57014 TG001 TG002 TG003 TG004 TG005 TG006)),
		'', 'failures of every kind were met');

	set_server($node, { 'tegro.proxy' => 'http://user:Secret-of-proxy@127.0.0.1:1' }, $admin);
	is( ask($admin, 'SHOW tegro.proxy')->{out},
		'http://user:Secret-of-proxy@127.0.0.1:1',
		'a superuser sees the proxy');
	foreach my $look (
		'SHOW tegro.proxy',
		q{SELECT current_setting('tegro.proxy')},
		q{SELECT * FROM pg_settings WHERE name = 'tegro.proxy'})
	{
		foreach my $role (qw(alice monitor))
		{
			$result = ask($admin, "SET ROLE $role; $look");
			unlike("$result->{out}$result->{err}",
				qr/Secret-of-proxy/, "$role does not see its password by $look");
		}
	}
	ask($admin, 'RESET ROLE; RESET ALL');
	set_server($node, { 'tegro.proxy' => undef }, $admin);
	$alice->close;
}


#
# A standby
#

my $standby_log;
{
	$node->backup('backup');
	my $standby = PostgreSQL::Test::Cluster->new('standby');
	$standby->init_from_backup($node, 'backup', has_streaming => 1);
	$standby->append_conf('postgresql.conf',
		"shared_preload_libraries = 'pg_stat_statements, auto_explain, tegro'");
	$standby->start;
	$node->wait_for_catchup($standby, 'replay', $node->lsn('write'));
	$sandbox->begin;

	my $session = session($standby, user => 'alice');
	is($session->query('SELECT pg_is_in_recovery()')->{out}, 't', 'a standby is in recovery');
	foreach
	  my $call ('tegro_balance()', 'tegro_orders()', 'tegro_shops()', q{tegro_call('modules')},
		q{(SELECT answer FROM tegro_batch('rates', ARRAY['{}'::jsonb]))})
	{
		my $result = $session->query("SELECT $call");
		$told .= "$result->{out}$result->{err}";
		like($result->{out}, qr/"success"/, "$call works there");
	}
	is(scalar($sandbox->journal(verdict => 'success')), 5, 'the provider took them all');
	like($session->query(q{SELECT body FROM tegro_preview('balance')})->{out}, qr/^\{"nonce":/, 'a preview works there');
	$session->close;
	$standby->stop;
	$standby_log = slurp_file($standby->logfile);
}


#
# Keys in the configuration file
#

{
	my $signed_by = sub {
		my ($who, $first) = @_;
		my $before = $sandbox->journal;
		my $result = ask($who, ($first // '') . 'SELECT tegro_balance()');
		my @sent = $sandbox->journal;

		return $result->{err} if @sent == $before;
		return signed_with($sent[-1]{body}, $sent[-1]{authorization}, %keys);
	};
	# outside of the data directory, which is searched at the end
	my $with = sub {
		my ($key) = @_;
		return write_file('keys.conf', "Tegro.API_Key = '$key'\ntegro.secret_key = 'CANARY-secret-in-conf'\n");
	};

	$keys{'the one in the file'} = 'CANARY-key-in-conf';
	$node->append_conf('postgresql.conf', "include '" . $with->($keys{'the one in the file'}) . "'");
	$admin->close;
	$node->restart;
	$admin = session($node);
	foreach my $role ('alice', 'monitor', undef)
	{
		my $session = open_session($role);
		my $name = $role // 'a superuser';

		is($signed_by->($session), 'the one in the file', "a key in postgresql.conf signs for $name");
		is($signed_by->($session, "$_; "), 'the one in the file', "also after $_")
		  foreach 'RESET ALL', 'DISCARD ALL', 'RESET tegro.api_key';
		foreach my $look (
			'SHOW tegro.api_key',
			'SHOW tegro.secret_key',
			q{SELECT current_setting('tegro.api_key')},
			'SHOW ALL',
			'SELECT * FROM pg_settings',
			'SELECT * FROM pg_show_all_settings()',
			'EXPLAIN (ANALYZE, VERBOSE, SETTINGS) SELECT tegro_balance()',
			# PostgreSQL shows these to superusers
			defined $role ? ('SELECT * FROM pg_file_settings', 'SELECT * FROM pg_show_all_file_settings()') : ())
		{
			my $result = ask($session, $look);
			unlike("$result->{out}$result->{err}", qr/CANARY/, "it is not shown to $name by $look");
		}
		is(ask($session, q{SELECT count(*) FROM pg_settings WHERE name ~ '^tegro\.(api|secret)_key$'})->{out},
			'0', "it is not in pg_settings for $name");
		$session->close;
	}
	is(ask($admin, 'SHOW tegro.api_key')->{out}, '********', 'a superuser sees that there is one');

	# another, and one that is refused
	$keys{'the next one in the file'} = 'CANARY-next-in-conf';
	$with->($keys{'the next one in the file'});
	reload_conf($node);
	is($signed_by->('alice'), 'the next one in the file', 'another signs after a reload');
	my $from = -s $node->logfile;
	$with->('CANARY-broken\\nkey');
	reload_conf($node);
	is($signed_by->('alice'), 'the next one in the file', 'one with a line break does not take its place');
	like(slurp_file($node->logfile, $from), qr/a key must not contain line breaks/, 'and the log says why');
}


#
# The canary
#

{
	my @looks = (
		'SHOW tegro.api_key',
		'SHOW tegro.secret_key',
		'SHOW ALL',
		q{SELECT current_setting('tegro.api_key', true)},
		q{SELECT current_setting('tegro.credentials_file', true)},
		'SHOW tegro.credentials_file',
		'SELECT * FROM pg_settings',
		'SELECT * FROM pg_show_all_settings()',
		'SELECT * FROM pg_stat_activity',
		'SELECT * FROM pg_stat_statements',
		'SELECT * FROM pg_db_role_setting',
		'SELECT * FROM pg_backend_memory_contexts',
		'SELECT * FROM pg_prepared_statements',
		'SELECT * FROM pg_extension',
		'EXPLAIN (ANALYZE, VERBOSE, SETTINGS) SELECT tegro_balance()');

	foreach my $role ('alice', 'mallory', 'monitor', undef)
	{
		my $session = open_session($role);

		# at once, and after a call
		foreach my $look (@looks, q{SELECT tegro_preview('balance')}, @looks)
		{
			my $result = ask($session, $look);

			unlike(
				"$result->{out}$result->{err}",
				qr/path-to-credentials/,
				"an ordinary role does not see the credentials file by $look"
			) if ($role // 'monitor') eq 'alice';
		}
		if (defined $role && $role eq 'alice')
		{
			is(ask($session, 'SHOW tegro.api_key')->{sqlstate},
				'42501', 'an ordinary role may not look at tegro.api_key');
			is(ask($session, 'SHOW tegro.credentials_file')->{sqlstate},
				'42501', 'an ordinary role may not look at tegro.credentials_file');
			is(ask($session, q{SELECT pg_read_file('} . $credentials . q{')})->{sqlstate},
				'42501', 'nor read the file');
		}
		$session->close;
	}

	my ($dump, $err) = ('', '');
	IPC::Run::run([ 'pg_dumpall', '-h', $node->host, '-p', $node->port ],
		'<', \undef, '>', \$dump, '2>', \$err);
	my $statements =
	  ask($admin, 'SELECT string_agg(query, E\'\n\') FROM pg_stat_statements')->{out};
	$admin->close;
	$node->stop;
	my $log = slurp_file($node->logfile);

	# They tell much, so that their silence means something.
	ok($log =~ /DEBUG:/, 'the log is at a debug level');
	ok($log =~ /statement: SELECT tegro_balance\(\)/, 'the log has the statements');
	ok($log =~ /Query Text: SELECT tegro_balance\(\)\n.*?actual time/s, 'the log has their plans');
	ok($log =~ /LOG:.*parameter "tegro\.api_url" changed to/, 'the log has settings that a reload changed');
	is(lines_with(qr/parameter "tegro\.proxy" changed to/, $log), '', 'but not the proxy, which may have a password');
	ok($log =~ /LOG:.*key-of-the-session/, 'the log has what was in a statement');
	ok($standby_log =~ /statement: SELECT tegro_balance\(\)/,
		"the standby's log has the statements");
	ok($statements =~ /tegro_balance\(\)/, 'pg_stat_statements has the statements');
	ok($dump       =~ /CREATE EXTENSION.*tegro/, 'the dump has the extension');
	ok($told       =~ /TG004/, 'what was told has errors');

	my %texts = (
		'the log' => $log,
		"the standby's log" => $standby_log,
		'pg_stat_statements' => $statements,
		'a dump' => $dump,
		'what any role was told' => $told);
	is(lines_with(qr/CANARY/, $texts{$_}), '', "no key is in $_") foreach sort keys %texts;
	is(lines_with(qr/Bearer [0-9a-f]{64}/, $texts{$_}), '', "fault 93: no signature is in $_") foreach sort keys %texts;

	my ($found, $complaints) = ('', '');
	IPC::Run::run([ 'grep', '-r', '-l', '-a', '-e', 'tegro_balance', $node->data_dir ],
		'<', \undef, '>', \$found, '2>', \$complaints);
	isnt($found, '', "the server's files can be searched");
	IPC::Run::run([ 'grep', '-r', '-l', '-a', '-e', 'CANARY', $node->data_dir ],
		'<', \undef, '>', \$found, '2>', \$complaints);
	is("$found$complaints", '', "no key is in the server's files");
	is(scalar(grep { /CANARY/ } map { $_->{head} // '' } $evil->notes),
		0, 'no key was sent anywhere');
}

done_testing();
