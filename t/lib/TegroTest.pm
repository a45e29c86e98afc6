package TegroTest;

# What the TAP tests of tegro share; see the POD at the end, or
# "perldoc t/lib/TegroTest.pm".

use strict;
use warnings;

use Cwd qw(abs_path);
use Exporter qw(import);
use File::Basename qw(basename dirname);
use Fcntl qw(:flock);
use IO::Select;
use IO::Socket::IP;
use JSON::PP;
use List::Util qw(max min);
use POSIX ();
use Socket qw(IPPROTO_TCP SOL_SOCKET SOMAXCONN SO_RCVBUF TCP_MAXSEG);
use Time::HiRes qw(sleep time);

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(
  certificates sandbox cluster session query raw_server black_hole
  read_request preload_library preload_clock set_clock
  spew compile
  vm_hwm_kb descriptors wait_until own_ms reload_conf set_server
  SHOP_ID API_KEY SECRET_KEY
);

# Id and secret key are those of the provider's published example; none of
# this opens anything.
use constant SHOP_ID => 'D0F98E7D7742609DC508D86BB7500914';
use constant API_KEY => 'sandbox-api-key';
use constant SECRET_KEY => 'GB%^&*YJni677';

# Nothing here takes as long, not even on a busy machine, unless it hangs.
use constant PATIENCE => 120;

# How often the process that watches the machine looks at the clock.
use constant TICK => 0.01;

my $root = dirname(dirname(dirname(abs_path(__FILE__))));
my $serial = 0;
my $json = JSON::PP->new->canonical;

# Processes to end, pid => 'process' or, with all in its group, 'group'; only of
# the process that runs the test.
my %to_end;
my $main_pid = $$;

END
{
	my $status = $?;

	end_process($_) foreach $$ == $main_pid ? keys %to_end : ();
	$? = $status;
}

# Ends a process that this module started, and waits for its end.
sub end_process
{
	my ($pid, $signal) = @_;

	my $what = delete $to_end{$pid} // return;
	kill($signal // 'KILL', $what eq 'group' ? -$pid : $pid);
	my $deadline = time + 10;
	while (waitpid($pid, POSIX::WNOHANG()) == 0)
	{
		kill('KILL', $pid) if time > $deadline;
		sleep 0.005;
	}
	return;
}

# What is missing ends the whole run.
sub need
{
	my ($ok, $what) = @_;

	BAIL_OUT($what) unless $ok;
	return;
}

sub scratch
{
	return PostgreSQL::Test::Utils::tempdir();
}

sub slurp
{
	my ($path) = @_;

	open(my $file, '<:raw', $path) or die "could not open $path: $!";
	local $/ = undef;
	my $content = <$file>;
	close($file);
	return $content // '';
}

# The lines of JSON in a file from some byte on, decoded; moves it to their end.
sub new_lines
{
	open(my $file, '<:raw', $_[0]) or die "could not open $_[0]: $!";
	seek($file, $_[1], 0);
	local $/ = undef;
	my $text = <$file> // '';
	close($file);

	# the last may still be on its way
	$text =~ s/[^\n]*\z//;
	$_[1] += length $text;
	return map { $json->decode($_) } split(/\n/, $text);
}

sub spew
{
	my ($path, $content, $mode) = @_;

	my $umask = umask 0077;
	open(my $file, '>:raw', $path) or die "could not write $path: $!";
	umask $umask;
	print {$file} $content;
	close($file) or die "could not write $path: $!";
	chmod($mode, $path) if defined $mode;
	return $path;
}

# Runs a program that must succeed; returns what it prints.
sub must_run
{
	my @command = @_;
	my ($out, $err) = ('', '');

	my $ok = IPC::Run::run(\@command, '<', \undef, '>', \$out, '2>', \$err);
	need($ok, "@command[0, 1] failed: $err");
	return $out;
}


#
# Certificates
#

my %kinds = (
	good => [ 'authority', -86400, 'IP:127.0.0.1, IP:::1, DNS:localhost, DNS:*.provider.test' ],
	expired => [ 'authority', -3 * 86400, 'IP:127.0.0.1, DNS:localhost', -86400 ],
	wrong_host => [ 'authority', -86400, 'DNS:elsewhere.test' ],
	self_signed => [ undef, -86400, 'IP:127.0.0.1, DNS:localhost' ]);

sub certificates
{
	my @wanted = @_ ? @_ : ('good');
	my $dir = scratch();
	my %made = (ca => "$dir/authority.pem");
	my $date = sub {
		return POSIX::strftime('%Y%m%d%H%M%SZ', gmtime(time + $_[0]));
	};

	# "openssl ca" alone can date a certificate back, in OpenSSL 3.0.
	spew("$dir/index", '');
	my $config = "[ca]\ndefault_ca = here\n"
	  . "[here]\ndatabase = $dir/index\nnew_certs_dir = $dir\nrand_serial = yes\n"
	  . "unique_subject = no\ndefault_md = sha256\npolicy = any\n"
	  . "[any]\ncommonName = supplied\n"
	  . "[req]\ndistinguished_name = name\n[name]\n"
	  . "[authority]\nbasicConstraints = critical, CA:true\n"
	  . "keyUsage = critical, keyCertSign, cRLSign\nsubjectKeyIdentifier = hash\n";
	foreach my $kind (@wanted)
	{
		$config .= "[$kind]\nbasicConstraints = critical, CA:false\n"
		  . "keyUsage = critical, digitalSignature\nextendedKeyUsage = serverAuth\n"
		  . "subjectAltName = $kinds{$kind}[2]\n";
	}
	spew("$dir/openssl.cnf", $config);

	foreach my $kind ('authority', @wanted)
	{
		my ($authority, $from, undef, $until) = @{ $kinds{$kind} // [ undef, -86400 ] };
		my ($key, $request, $certificate) = map { "$dir/$kind.$_" } qw(key csr pem);

		must_run('openssl', 'req', '-new', '-config', "$dir/openssl.cnf",
			'-subj', "/CN=$kind", '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256',
			'-nodes', '-keyout', $key, '-out', $request);
		must_run('openssl', 'ca', '-batch', '-notext', '-config', "$dir/openssl.cnf",
			'-startdate', $date->($from), '-enddate', $date->($until // 365 * 86400),
			'-extensions', $kind, '-in', $request, '-out', $certificate,
			defined $authority
			? ('-cert', "$dir/$authority.pem", '-keyfile', "$dir/$authority.key")
			: ('-selfsign', '-keyfile', $key));
		$made{$kind} = $certificate;
		$made{"${kind}_key"} = $key;
	}
	return \%made;
}


#
# The sandbox
#

sub sandbox
{
	my (%options) = @_;
	my $program = "$root/sandbox/tegro-sandbox";
	my $dir = scratch();
	my $self = bless {
		journal => "$dir/journal",
		read => 0,
		lines => [],
		log => $PostgreSQL::Test::Utils::log_path . '/sandbox_' . ++$serial . "_$$.log"
	}, 'TegroTest::Sandbox';
	my $certificates = $options{certificates};
	my $kind = $options{certificate} // 'good';
	my @tls = $certificates
	  ? ('--tls-cert', $certificates->{$kind}, '--tls-key', $certificates->{"${kind}_key"})
	  : ();

	need(-x $program, "$program is missing: build it with \"make sandbox\"");
	my $pid = fork() // die "could not fork: $!";
	if ($pid == 0)
	{
		open(STDIN, '<', '/dev/null');
		open(STDOUT, '>', $self->{log});
		open(STDERR, '>&', \*STDOUT);
		exec($program, '--listen', $options{listen} // '127.0.0.1', '--port', 0, @tls,
			'--shop', join(':', SHOP_ID, API_KEY, SECRET_KEY),
			# no nonce twice, and payouts without payment_system
			'--nonce', 'unique', '--require', 'none',
			'--journal', $self->{journal}, '--ready-file', "$dir/ready",
			'--parent-death', @{ $options{arguments} // [] })
		  or POSIX::_exit(127);
	}
	$to_end{$pid} = 'process';
	$self->{pid} = $pid;
	wait_until(sub { -s "$dir/ready" || waitpid($pid, POSIX::WNOHANG()) != 0 });
	need(-s "$dir/ready", 'the sandbox did not start: ' . slurp($self->{log}));
	$self->{url} = slurp("$dir/ready");
	$self->{url} =~ s/\s+$//;
	($self->{port}) = $self->{url} =~ /:(\d+)$/;
	return $self;
}

package TegroTest::Sandbox
{
	sub url { return $_[0]{url}; }
	sub api_url { return "$_[0]{url}/api"; }
	sub port { return $_[0]{port}; }
	sub pid { return $_[0]{pid}; }

	# A connection for the controls that lasts: curl would take its time for each
	# request, and Perl's core has no TLS.
	sub connection
	{
		my ($self) = @_;

		return $self->{connection} if $self->{connection};
		if ($self->{url} =~ /^https:/)
		{
			socketpair(my $ours, my $theirs, Socket::AF_UNIX, Socket::SOCK_STREAM, 0)
			  or die "could not make a socket pair: $!";
			my $pid = fork() // die "could not fork: $!";
			if ($pid == 0)
			{
				POSIX::dup2(fileno($theirs), $_) foreach 0, 1;
				open(STDERR, '>>', $self->{log});
				exec('openssl', 's_client', '-quiet', '-connect', $self->{url} =~ s{^https://}{}r)
				  or POSIX::_exit(127);
			}
			$to_end{$pid} = 'process';
			$self->{tunnel} = $pid;
			$self->{connection} = $ours;
		}
		else
		{
			$self->{connection} = IO::Socket::IP->new(
				PeerHost => $self->{url} =~ m{^http://\[?([0-9a-f:.]+?)\]?:\d+$} ? $1 : '',
				PeerPort => $self->{port}) or die "could not connect to the sandbox: $@";
		}
		return $self->{connection};
	}

	# A control request; returns the answer, decoded.
	sub control
	{
		my ($self, $verb, $path, $body) = @_;
		my $connection = $self->connection;
		my $in = defined $body ? $json->encode($body) : '';
		my $bytes = '';
		my $more = sub {
			sysread($connection, $bytes, 65536, length $bytes)
			  or die "the sandbox did not answer to $verb $path";
		};

		$in = "$verb /_sandbox/$path HTTP/1.1\r\nHost: sandbox\r\nContent-Length: "
		  . length($in) . "\r\n\r\n$in";
		while (length $in)
		{
			my $written = syswrite($connection, $in) // die "could not ask the sandbox: $!";
			substr($in, 0, $written, '');
		}
		$more->() until $bytes =~ s/^(.*?)\r\n\r\n//s;
		my ($head, $out) = ($1, '');
		if ($head =~ /^content-length: *(\d+)/mi)
		{
			$more->() until length $bytes >= $1;
			$out = $bytes;
		}
		else
		{
			for (my $size = 1; $size > 0;)
			{
				$more->() until $bytes =~ s/^([0-9a-f]+)\r\n//i;
				$size = hex $1;
				$more->() until length $bytes >= $size + 2;
				$out .= substr($bytes, 0, $size);
				substr($bytes, 0, $size + 2, '');
			}
		}
		my $answer = $json->decode($out);
		die "the sandbox refused: $answer->{desc}" if ($answer->{type} // '') eq 'error';
		return $answer;
	}

	sub fault
	{
		my ($self, $method, $action, %more) = @_;

		$self->control('POST', 'fault', { method => $method, action => $action, %more });
		return;
	}

	sub clear_faults { $_[0]->control('DELETE', 'fault'); return; }

	sub state { return $_[0]->control('GET', 'state'); }

	sub begin
	{
		my ($self) = @_;

		$self->control('POST', 'reset');
		$self->control('POST', 'flush');
		$self->{read} = -s $self->{journal} // 0;
		$self->{lines} = [];
		return;
	}

	sub journal
	{
		my ($self, %wanted) = @_;

		$self->control('POST', 'flush');
		push @{ $self->{lines} }, TegroTest::new_lines($self->{journal}, $self->{read});
		my @lines = @{ $self->{lines} };
		foreach my $line (@lines)
		{
			$line->{params} //= eval { $json->decode($line->{body}) };
		}
		foreach my $key (keys %wanted)
		{
			@lines = grep { ($_->{$key} // '') eq $wanted{$key} } @lines;
		}
		return @lines;
	}

	sub stop
	{
		my ($self) = @_;

		TegroTest::end_process($self->{tunnel}) if $self->{tunnel};
		TegroTest::end_process($self->{pid}, 'TERM');
		return;
	}
}


#
# A server with the extension
#

sub cluster
{
	my ($name, $sandbox, %options) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);
	my $certificates = $options{certificates};
	my $credentials = spew(scratch() . '/credentials',
		join(':', SHOP_ID, '*', API_KEY, SECRET_KEY) . "\n", 0600);

	$node->init(extra => [ '--encoding=UTF8', '--locale=C', '--auth=trust' ]);
	$node->append_conf('postgresql.conf', <<"END");
shared_preload_libraries = 'tegro'
log_statement = 'none'
# a crash is for the test to find, not a reason to break off the run
restart_after_crash = on
tegro.shop_id = '@{[SHOP_ID]}'
tegro.credentials_file = '$credentials'
@{[ $sandbox ? "tegro.api_url = '" . $sandbox->api_url . "'" : '' ]}
@{[ $certificates ? "tegro.ca_file = '$certificates->{ca}'" : '' ]}
@{[ $options{conf} // '' ]}
END
	{
		local %ENV = (%ENV, %{ $options{environment} // {} });
		$node->start;
	}
	$node->safe_psql('postgres', 'CREATE EXTENSION tegro');
	return $node;
}

# A session for each server, to configure it.
my %admins;

sub admin
{
	my ($node) = @_;
	my $session = $admins{ $node->name };

	if (!$session || $session->query('SELECT 1')->{out} ne '1')
	{
		# none yet, or its server has restarted since
		$session->close if $session;
		$session = $admins{ $node->name } = session($node);
	}
	return $session;
}

sub reload_conf
{
	my ($node, @sessions) = @_;
	my $admin = admin($node);
	my $before = $admin->query('SELECT clock_timestamp()')->{out};

	# The postmaster reads it first, and then tells its sessions.
	$admin->query('SELECT pg_reload_conf()');
	foreach my $session ($admin, @sessions)
	{
		wait_until(sub { return $session->query("SELECT pg_conf_load_time() > '$before'")->{out} eq 't'; })
		  or die 'a session did not read the configuration again';
	}
	return;
}

sub set_server
{
	my ($node, $settings, @sessions) = @_;
	my $admin = admin($node);

	foreach my $name (sort keys %$settings)
	{
		my $value = $settings->{$name};
		my $result = $admin->query(
			defined $value
			? "ALTER SYSTEM SET $name = '" . $value =~ s/'/''/gr . q{'}
			: "ALTER SYSTEM RESET $name");

		die "could not set $name: $result->{err}" if $result->{err} ne '';
	}
	reload_conf($node, @sessions);
	return;
}


#
# Sessions
#

sub session
{
	my ($node, %options) = @_;
	my $self = bless { node => $node, mark => 0, out => '', err => '' }, 'TegroTest::Session';
	my @pipes;

	foreach (0 .. 2)
	{
		pipe(my $from, my $to) or die "could not make a pipe: $!";
		push @pipes, [ $from, $to ];
	}
	my $connection = $node->connstr($options{database} // 'postgres');
	$connection .= " user='$options{user}'" if defined $options{user};

	my $pid = fork() // die "could not fork: $!";
	if ($pid == 0)
	{
		$ENV{PGCLIENTENCODING} = $options{encoding} // 'UTF8';
		POSIX::dup2(fileno($pipes[0][0]), 0);
		POSIX::dup2(fileno($pipes[1][1]), 1);
		POSIX::dup2(fileno($pipes[2][1]), 2);
		exec('psql', '-XqAt', '-v', 'VERBOSITY=verbose', '-d', $connection)
		  or POSIX::_exit(127);
	}
	$to_end{$pid} = 'process';
	$self->{psql} = $pid;
	close($pipes[0][0]);
	close($_->[1]) foreach @pipes[ 1, 2 ];
	($self->{to}, $self->{from_out}, $self->{from_err}) =
	  ($pipes[0][1], $pipes[1][0], $pipes[2][0]);
	$self->{select} = IO::Select->new($self->{from_out}, $self->{from_err});

	my $first = $self->query('SELECT pg_backend_pid()');
	die "no session: $first->{err}" unless $first->{out} =~ /^\d+$/;
	$self->{pid} = $first->{out};
	return $self;
}

sub query
{
	my ($node, $sql, %options) = @_;
	my $session = session($node, %options);
	my $result = $session->query($sql);

	$session->close;
	return $result;
}

package TegroTest::Session
{
	use Time::HiRes qw(time);

	sub pid { return $_[0]{pid}; }

	sub send
	{
		my ($self, $sql) = @_;
		my $mark = 'end of statement ' . ++$self->{mark};

		local $SIG{PIPE} = 'IGNORE';
		($self->{out}, $self->{err}) = ('', '');
		$self->{is_done} = 0;
		$self->{ended} = undef;
		$self->{begun} = time;
		# a write that fails is seen as the end of psql's output
		my $text = "$sql\n;\n\\echo $mark\n\\warn $mark\n";
		syswrite($self->{to}, $text);
		return;
	}

	# Takes in what psql prints; true once the statement has ended.
	sub poll
	{
		my ($self, $patience) = @_;
		my $mark = qr/^end of statement $self->{mark}\n/m;

		return 1 if $self->{is_done};
		foreach my $from ($self->{select}->can_read($patience))
		{
			my $name = $from == $self->{from_out} ? 'out' : 'err';
			my $got = sysread($from, $self->{$name}, 65536, length $self->{$name});

			$self->{select}->remove($from) unless $got;
		}
		# the error is the end; what is left is psql's own
		$self->{ended} //= time if $self->{err} =~ /^(?:ERROR|FATAL):  .*\n/m;
		if ($self->{select}->count == 0
			|| ($self->{out} =~ $mark && $self->{err} =~ $mark))
		{
			$self->{ended} //= time;
			$self->{is_done} = 1;
		}
		return $self->{is_done};
	}

	sub wait
	{
		my ($self, $patience) = @_;
		my $deadline = time + ($patience // TegroTest::PATIENCE);

		until ($self->poll($deadline - time))
		{
			die "the statement did not end in time\n" if time > $deadline;
		}

		my ($out, $err) = @{$self}{qw(out err)};
		$_ =~ s/^end of statement $self->{mark}\n.*//ms foreach $out, $err;
		$out =~ s/\n$//;
		my %result = (
			out => $out,
			err => $err,
			lost => $self->{select}->count == 0,
			begun => $self->{begun},
			ended => $self->{ended},
			ms => 1000 * ($self->{ended} - $self->{begun}),
			sqlstate => '',
			message => '',
			detail => '',
			hint => '');
		if ($err =~ /^(?:psql:\S* )?(?:ERROR|FATAL|PANIC):  (\w{5}): (.*?)$/m)
		{
			@result{qw(sqlstate message)} = ($1, $2);
			$result{detail} = $1 if $err =~ /^DETAIL:  (.*?)$/m;
			$result{hint} = $1 if $err =~ /^HINT:  (.*?)$/m;
		}
		return \%result;
	}

	sub query
	{
		my ($self, $sql, $patience) = @_;

		$self->send($sql);
		return $self->wait($patience);
	}

	sub close
	{
		my ($self) = @_;

		close($self->{to});
		TegroTest::end_process($self->{psql}, 'TERM');
		return;
	}
}


#
# Servers that misbehave
#

# A listening socket, on a port that is free.
sub listener
{
	my (%options) = @_;

	my $socket = IO::Socket::IP->new(
		LocalHost => $options{host} // '127.0.0.1',
		LocalPort => $options{port} // 0,
		Listen => $options{backlog} // SOMAXCONN,
		ReuseAddr => 1,
		V6Only => 1) or die "could not listen: $@";
	# Connections inherit both.  Without, the kernels would take 4 MB and more
	# that nobody reads: the loopback's large packets let them expect much.
	if ($options{small_buffer})
	{
		setsockopt($socket, SOL_SOCKET, SO_RCVBUF, 16 * 1024);
		setsockopt($socket, IPPROTO_TCP, TCP_MAXSEG, 1460);
	}
	return $socket;
}

# The log is read by the test, and written by the processes of the server.
my $raw_log;

sub raw_note
{
	my (%note) = @_;

	open(my $file, '>>:raw', $raw_log) or return;
	flock($file, LOCK_EX);
	syswrite($file, $json->encode(\%note) . "\n");
	close($file);
	return;
}

sub raw_server
{
	my ($handler, %options) = @_;
	my $listener = listener(%options);
	my $log = scratch() . '/raw_' . ++$serial;
	# it ends with the test, however that ends: then the pipe is closed
	pipe(my $alive, my $keep_alive) or die "could not make a pipe: $!";

	spew($log, '');
	my $port = $listener->sockport;
	my $pid = fork() // die "could not fork: $!";
	if ($pid == 0)
	{
		setpgrp(0, 0);
		eval {
			$SIG{$_} = 'DEFAULT' foreach qw(TERM INT HUP PIPE);
			$SIG{CHLD} = 'IGNORE';
			close($keep_alive);
			$raw_log = $log;
			raw_serve($listener, $alive, $handler);
		};
		kill('KILL', -$$);
	}
	$to_end{$pid} = 'group';
	# twice, so that it has happened whoever is first: the group is there to end
	setpgrp($pid, $pid);
	close($listener);
	return bless {
		pid => $pid, port => $port, keep_alive => $keep_alive,
		log => $log, read => 0, notes => []
	}, 'TegroTest::RawServer';
}

# Accepts for ever, with a process for each connection.
sub raw_serve
{
	my ($listener, $alive, $handler) = @_;
	my $select = IO::Select->new($listener, $alive);

	for (my $number = 0;;)
	{
		foreach my $ready ($select->can_read)
		{
			return if $ready == $alive;
			my $socket = $listener->accept or next;

			raw_note(connection => ++$number);
			my $child = fork();
			if (defined $child && $child == 0)
			{
				close($listener);
				eval { $handler->($socket, $number); };
				raw_note(problem => "$@") if $@;
				POSIX::_exit(0);
			}
		}
	}
	return;
}

package TegroTest::RawServer
{
	sub port { return $_[0]{port}; }
	sub url { return "http://127.0.0.1:$_[0]{port}/api"; }

	# They are read once, for JSON::PP takes its time.
	sub notes
	{
		my ($self) = @_;

		push @{ $self->{notes} }, TegroTest::new_lines($self->{log}, $self->{read});
		return @{ $self->{notes} };
	}

	sub connections
	{
		return scalar(grep { exists $_->{connection} } $_[0]->notes);
	}

	sub requests
	{
		return grep { exists $_->{head} } $_[0]->notes;
	}

	sub stop { TegroTest::end_process($_[0]{pid}); return; }
}

# One request from a socket: {head, body, params}; nothing if it is not whole.
sub read_request
{
	my ($socket) = @_;
	my ($bytes, $length) = ('', undef);

	for (;;)
	{
		if (!defined $length && $bytes =~ /\r\n\r\n/)
		{
			$length = $bytes =~ /^content-length: *(\d+)\r$/mi ? $1 : 0;
			$length += $+[0] if $bytes =~ /\r\n\r\n/;
		}
		last if defined $length && length $bytes >= $length;
		sysread($socket, $bytes, 65536, length $bytes) or return;
	}
	my ($head, $body) = split(/\r\n\r\n/, $bytes, 2);
	my %request = (head => $head, body => $body, params => eval { $json->decode($body) });

	raw_note(%request) if $raw_log;
	return \%request;
}

# A listening socket whose queue is full: a connection to it neither stands nor
# fails.
sub black_hole
{
	my (%options) = @_;
	my $listener = listener(%options, backlog => 0);
	my $self = bless { listener => $listener, port => $listener->sockport, fillers => [] },
	  'TegroTest::BlackHole';

	foreach (1 .. 16)
	{
		my $filler = IO::Socket::IP->new(
			PeerHost => $options{host} // '127.0.0.1',
			PeerPort => $self->{port},
			Blocking => 0) or die "could not connect: $@";
		push @{ $self->{fillers} }, $filler;
		return $self unless IO::Select->new($filler)->can_write(0.1);
	}
	die 'the queue of a listening socket could not be filled';
}

package TegroTest::BlackHole
{
	sub port { return $_[0]{port}; }
}


#
# Libraries for LD_PRELOAD
#

# Name lookups that misbehave on request: the source is below.
sub preload_library
{
	return preload(spew(scratch() . '/names.c', do { local $/ = undef; <TegroTest::DATA> }), '-ldl', '-pthread');
}

# A clock that set_clock() sets, right at first.
my $clock_file;

sub preload_clock
{
	$clock_file = spew(scratch() . '/clock', pack('q', 0));
	return (preload("$root/t/lib/clock.c"), TEGRO_TEST_CLOCK => $clock_file);
}

# Sets the clock so many seconds off.
sub set_clock
{
	my ($seconds) = @_;

	# in place, for the server has it mapped
	open(my $file, '+<:raw', $clock_file) or die "could not open $clock_file: $!";
	syswrite($file, pack('q', $seconds * 1_000_000));
	close($file);
	return;
}

# Builds a library; returns the environment in which programs load it first.
sub preload
{
	my ($source, @libraries) = @_;
	my $library = scratch() . '/' . basename($source, '.c') . '.so';

	compile('-shared', '-fPIC', '-O1', '-Wall', '-Werror', '-o', $library, $source, @libraries);
	return (LD_PRELOAD => join(':', $library, $ENV{LD_PRELOAD} // ()));
}

sub compile
{
	return must_run($ENV{CC} // 'cc', @_);
}


#
# Processes
#

# The most memory that a process ever had, in kB.
sub vm_hwm_kb
{
	my ($pid) = @_;

	return slurp("/proc/$pid/status") =~ /^VmHWM:\s+(\d+) kB/m ? $1 : die 'no VmHWM';
}

# The number of descriptors that a process has open.
sub descriptors
{
	my ($pid) = @_;

	opendir(my $dir, "/proc/$pid/fd") or die "could not open /proc/$pid/fd: $!";
	return scalar(grep { /^\d+$/ } readdir $dir);
}

#
# The machine
#

# A process that wakes up again and again, and notes when.  How late it was is
# how late the machine was to let go on what had nothing to wait for but its turn.
my %watch;

sub watch_machine
{
	my $path = scratch() . '/ticks';
	# it ends with the test, however that ends: then the pipe is closed
	pipe(my $alive, my $keep_alive) or die "could not make a pipe: $!";

	spew($path, '');
	my $pid = fork() // die "could not fork: $!";
	if ($pid == 0)
	{
		close($keep_alive);
		open(my $file, '>>:raw', $path) or POSIX::_exit(1);
		my $select = IO::Select->new($alive);

		syswrite($file, pack('d', time)) until $select->can_read(TICK);
		POSIX::_exit(0);
	}
	$to_end{$pid} = 'process';
	close($alive);
	open(my $file, '<:raw', $path) or die "could not open $path: $!";
	%watch = (keep_alive => $keep_alive, file => $file, ticks => []);
	return;
}

# Takes in the ticks so far; returns the last.
sub latest_tick
{
	my $bytes = '';

	seek($watch{file}, 8 * @{ $watch{ticks} }, 0);
	while (read($watch{file}, $bytes, 65536, length $bytes)) { }
	push @{ $watch{ticks} }, unpack('d*', substr($bytes, 0, length($bytes) & ~7));
	return $watch{ticks}[-1] // 0;
}

# Milliseconds that a statement took, or between two times, without those for
# which the machine was late.
sub own_ms
{
	my ($from, $until) = ref $_[0] ? @{ $_[0] }{qw(begun ended)} : @_;
	my $late = 0;

	$until //= time;
	my $deadline = time + PATIENCE;
	while (latest_tick() < $until)
	{
		die 'nothing watches the machine' if time > $deadline;
		sleep TICK;
	}
	my $ticks = $watch{ticks};
	for (my $i = $#$ticks; $i > 0 && $ticks->[$i] > $from; $i--)
	{
		# as far as it lies between the two
		my $due = max($ticks->[ $i - 1 ] + TICK, $from);
		my $end = min($ticks->[$i], $until);

		$late += $end - $due if $end > $due;
	}
	return 1000 * ($until - $from - $late);
}

# when PostgreSQL::Test::Utils has its directories
INIT { watch_machine(); }

# Waits until something holds; says whether it came to hold.
sub wait_until
{
	my ($holds, $patience) = @_;
	my $deadline = time + ($patience // PATIENCE);

	until ($holds->())
	{
		return 0 if time > $deadline;
		sleep 0.01;
	}
	return 1;
}

1;

=pod

=head1 NAME

TegroTest - what the TAP tests of tegro share

=head1 SYNOPSIS

  use lib 't/lib';
  use TegroTest;

  my $certificates = certificates();
  my $sandbox = sandbox(certificates => $certificates);
  my $node = cluster('main', $sandbox, certificates => $certificates);

  $sandbox->begin;
  $sandbox->fault('createOrder', 'execute_then_close');
  my $result = query($node, q{SELECT tegro_create_order('{...}')});
  is($result->{sqlstate}, 'TG003', 'the outcome is unknown');
  is(scalar($sandbox->journal(executed => 1)), 1, 'it was executed once');

=head1 DESCRIPTION

All that is started here listens on a free port of the loopback interface, and
ends with the test.  What is missing on the machine ends the whole run.

=head2 The provider

=over

=item certificates(KIND, ...)

Makes a certificate authority and a certificate of each KIND: C<good> (the
default: for 127.0.0.1, ::1, localhost and *.provider.test), C<expired>,
C<wrong_host> and C<self_signed>.  Returns a hash of file names: C<ca>, and
KIND and KIND_key for each.

=item sandbox(certificates => ..., certificate => KIND, listen => ADDRESS, arguments => [...])

Starts a sandbox that knows the shop SHOP_ID with API_KEY and SECRET_KEY; with
certificates it speaks https, else http.  Methods of what it returns:

=over

=item url, api_url, port, pid, stop

=item fault(METHOD, ACTION, ms => ..., times => ..., ...), clear_faults, state

The sandbox's controls.

=item begin

Makes it forget all orders, nonces and faults, and the journal so far.

=item journal(KEY => VALUE, ...)

The requests since the last C<begin>, as the journal has them, those whose KEYs
have these VALUEs (true is 1, false 0); C<params> is the body, decoded.

=item control(VERB, PATH, BODY)

Any other of its controls; returns the answer, decoded.

=back

=back

=head2 The server

=over

=item cluster(NAME, SANDBOX, certificates => ..., conf => TEXT, environment => {...})

Makes and starts a PostgreSQL::Test::Cluster with the extension, configured for
the sandbox (undef: for none), in encoding UTF8; C<conf> is added to
postgresql.conf, C<environment> to that of the postmaster.

=item reload_conf(NODE, SESSION...)

Has the server read its configuration again.  Returns once new sessions and the
given ones, which must be idle, go by it.  Others do with their next statement,
and a worker that waits does within a moment.

=item set_server(NODE, { NAME => VALUE, ... }, SESSION...)

Sets settings of the whole server by ALTER SYSTEM, and reloads as C<reload_conf>
does; undef resets one.  A statement that is running keeps the values with which
it began.

=item session(NODE, database => ..., user => ..., encoding => ...)

A session, by psql.  Its C<pid> is the backend's.

=over

=item query(SQL, PATIENCE)

Runs SQL and returns what came of it: a hash of C<out> (the rows, unaligned),
C<err> (all else that psql printed), C<sqlstate>, C<message>, C<detail> and
C<hint> of the first error (empty if there was none), C<ms> that it took,
C<begun> and C<ended> (when), and C<lost>: whether the session is gone.

=item send(SQL), poll(SECONDS), wait(PATIENCE)

The same, but meanwhile something else can be done: C<poll> says whether it has
ended, C<wait> returns what C<query> does.

=item close

=back

=item query(NODE, SQL, ...)

Runs SQL in a session of its own, and returns what the session's C<query> does.

=back

=head2 The network

=over

=item raw_server(HANDLER, host => ADDRESS, port => PORT, small_buffer => BOOLEAN)

Accepts connections, and calls HANDLER(SOCKET, NUMBER) for each, in a process of
its own; the connection is closed when it returns.  With C<small_buffer>, the
kernels take only some 200 kB that HANDLER does not read.  Methods: C<port>, C<url>
(over http), C<connections> (how many there were), C<requests> (those that
C<read_request> read), C<stop>.

=item read_request(SOCKET)

For handlers: reads a request, and notes it.  Returns a hash of C<head>, C<body>
and C<params>; undef where the connection ended first.

=item black_hole(host => ADDRESS, port => PORT)

A C<port> to which connections neither stand nor fail.

=item preload_library()

Environment for a postmaster under which names below C<provider.test> are
resolved as their first part says: C<stuck>, C<slow-MS>, C<missing>,
C<linklocal>, C<mapped>, C<dual> (see the source at the end of this file).

=back

=head2 Processes

=over

=item vm_hwm_kb(PID), descriptors(PID)

=item own_ms(RESULT), own_ms(FROM), own_ms(FROM, UNTIL)

The milliseconds that a statement took, or between two times (the later is now,
unless it is given), without those by which the machine was late to let another
process go on, which only slept.  A limit on how long something takes is to be
compared with this, so that it holds on a busy machine, too.

=item wait_until(CODE, PATIENCE)

Waits until CODE returns true, 120 s unless PATIENCE says another time; returns
whether it did.

=back

=cut

__DATA__
/*
 * names.c
 *		Name lookups that misbehave on request, by LD_PRELOAD.
 *
 * Only names below "provider.test" are answered here, by what they begin with:
 *
 *		stuck...		never
 *		slow-N...		127.0.0.1, after N ms
 *		missing...		there is no such name
 *		linklocal...	169.254.0.1
 *		mapped...		::ffff:169.254.0.1
 *		dual...			::1, then 127.0.0.1; or one of them, if only such
 *						are asked for
 *		anything else	127.0.0.1
 *
 * and "localhost", where the environment has LOCALHOST_IS, an address.
 *
 * A lookup on a thread that would run PostgreSQL's signal handlers is told to
 * the server's log.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SUFFIX ".provider.test"

typedef int (*getaddrinfo_type) (const char *, const char *,
								 const struct addrinfo *, struct addrinfo **);

static void
wait_ms(long ms)
{
	struct timespec time = {ms / 1000, ms % 1000 * 1000000};

	nanosleep(&time, NULL);
}

static void
check_signals(void)
{
	static const int signals[] = {SIGHUP, SIGINT, SIGTERM, SIGALRM, SIGUSR1, SIGUSR2, SIGURG, SIGCHLD, SIGIO};
	sigset_t	blocked;

	/* the process's own thread may look names up as it likes */
	if (getpid() == gettid())
		return;
	pthread_sigmask(SIG_SETMASK, NULL, &blocked);
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		if (!sigismember(&blocked, signals[i]))
			dprintf(2, "names.c: signal %d is not blocked on a thread that looks a name up\n", signals[i]);
}

int
getaddrinfo(const char *name, const char *service,
			const struct addrinfo *hints, struct addrinfo **result)
{
	getaddrinfo_type real = (getaddrinfo_type) dlsym(RTLD_NEXT, "getaddrinfo");
	size_t		len = name ? strlen(name) : 0;
	const char *address = "127.0.0.1";
	int			status;

	if (name && strcmp(name, "localhost") == 0 && getenv("LOCALHOST_IS"))
		return real(getenv("LOCALHOST_IS"), service, hints, result);
	if (len < sizeof(SUFFIX) || strcmp(name + len - (sizeof(SUFFIX) - 1), SUFFIX) != 0)
		return real(name, service, hints, result);

	check_signals();
	if (strncmp(name, "stuck", 5) == 0)
		for (;;)
			wait_ms(1000);
	if (strncmp(name, "missing", 7) == 0)
		return EAI_NONAME;
	if (strncmp(name, "slow-", 5) == 0)
		wait_ms(atol(name + 5));
	if (strncmp(name, "linklocal", 9) == 0)
		address = "169.254.0.1";
	if (strncmp(name, "mapped", 6) == 0)
		address = "::ffff:169.254.0.1";
	if (strncmp(name, "dual", 4) == 0 && hints && hints->ai_family == AF_INET6)
		address = "::1";
	else if (strncmp(name, "dual", 4) == 0 &&
			 !(hints && hints->ai_family == AF_INET))
	{
		status = real("::1", service, hints, result);
		if (status == 0)
		{
			struct addrinfo *last = *result;

			while (last->ai_next)
				last = last->ai_next;
			status = real(address, service, hints, &last->ai_next);
		}
		return status;
	}
	return real(address, service, hints, result);
}
