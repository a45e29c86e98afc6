# What the tests of tegro-sandbox share: they start it, call it as a client
# would, with curl, and read what it says. Only core modules, curl, openssl and
# php. What is missing ends the run: nothing is skipped.
package SandboxTest;

use strict;
use warnings;

use Cwd qw(abs_path);
use Digest::SHA qw(hmac_sha256_hex);
use Exporter qw(import);
use File::Basename qw(dirname);
use File::Temp qw(tempdir);
use IO::Handle;
use IO::Socket::INET;
use IPC::Open2;
use JSON::PP;
use POSIX qw(WNOHANG);
use Test::More;
use Time::HiRes qw(sleep time);

our @EXPORT = qw(
	$SHOP $API_KEY $SECRET_KEY $SANDBOX $ROOT $DIR @BOTH
	start_sandbox stop_sandbox base journal forget_journal
	call answer_of control curl signed next_nonce slurp spew php run_command
	wait_until receiver raw_socket raw_answer);

our $SHOP = 'D0F98E7D7742609DC508D86BB7500914';
our $API_KEY = 'sandbox-api-key';
our $SECRET_KEY = 'sandbox-secret-key';
our $ROOT = abs_path(dirname(__FILE__) . '/../../..');
our $SANDBOX = "$ROOT/sandbox/tegro-sandbox";
our $DIR = tempdir(CLEANUP => 1);
our @BOTH = ('http', 'https');

my $json = JSON::PP->new->utf8->canonical;
my %running;    # pid => what start_sandbox returned
my @children;
my $nonce = int(time * 1_000_000);
my $count = 0;

for my $program (qw(curl php openssl make))
{
	BAIL_OUT("$program is missing")
		unless grep { -x "$_/$program" } split /:/, $ENV{PATH};
}
if (system("make -s -C $ROOT/sandbox >$DIR/make.log 2>&1") != 0)
{
	diag(slurp("$DIR/make.log"));
	BAIL_OUT('the sandbox does not build');
}
system("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes "
		. "-keyout $DIR/key.pem -out $DIR/cert.pem -days 30 -subj /CN=localhost "
		. "-addext subjectAltName=DNS:localhost,IP:127.0.0.1 2>/dev/null") == 0
	or BAIL_OUT('openssl makes no certificate');

sub slurp
{
	my ($path) = @_;
	open my $file, '<:raw', $path or die "$path: $!";
	local $/;
	my $content = <$file>;
	return defined $content ? $content : '';
}

sub spew
{
	my ($path, $content) = @_;
	open my $file, '>:raw', $path or die "$path: $!";
	print $file $content;
	close $file or die "$path: $!";
	return $path;
}

# Starts a sandbox; returns a handle for the functions below. The first
# argument is http or https, the others are options.
sub start_sandbox
{
	my ($scheme, @options) = @_;
	my $ready = "$DIR/ready." . ++$count;
	my $journal = "$DIR/journal.$count";

	push @options, '--tls-cert', "$DIR/cert.pem", '--tls-key', "$DIR/key.pem"
		if $scheme eq 'https';
	my $pid = fork;
	die "fork: $!" unless defined $pid;
	if ($pid == 0)
	{
		open STDOUT, '>', "$DIR/out.$count";
		exec $SANDBOX, '--parent-death', '--ready-file', $ready, '--journal',
			$journal, @options;
		exit 127;
	}
	my $self = {
		pid => $pid,
		journal => $journal,
		scheme => $scheme,
		out => "$DIR/out.$count",
		read => 0
	};
	$running{$pid} = $self;
	for (1 .. 3000)
	{
		last if -e $ready;
		BAIL_OUT("the sandbox ended: status $?") if waitpid($pid, WNOHANG) > 0;
		sleep 0.02;
	}
	BAIL_OUT('the sandbox does not start') unless -e $ready;
	$self->{base} = slurp($ready);
	return $self;
}

# Ends a sandbox; returns its exit status as in $?.
sub stop_sandbox
{
	my ($self, $signal) = @_;
	kill $signal || 'TERM', $self->{pid};
	for (1 .. 500)
	{
		if (waitpid($self->{pid}, WNOHANG) > 0)
		{
			delete $running{ $self->{pid} };
			return $?;
		}
		sleep 0.02;
	}
	kill 'KILL', $self->{pid};
	waitpid $self->{pid}, 0;
	delete $running{ $self->{pid} };
	return 'it had to be killed';
}

END
{
	my $status = $?;
	kill 'TERM', $_ for keys %running, @children;
	waitpid $_, 0 for keys %running, @children;
	$? = $status;
}

sub base { return $_[0]{base} }

sub next_nonce { return ++$nonce }

# Runs curl; returns a hash: exit, status, headers, body, seconds.
sub curl
{
	my (@arguments) = @_;
	my $begun = time;
	unlink "$DIR/body", "$DIR/headers";
	open my $pipe, '-|', 'curl', '-sk', '--noproxy', '*', '-o', "$DIR/body",
		'-D', "$DIR/headers", '-w', '%{http_code}', @arguments
		or die "curl: $!";
	my $status = do { local $/; <$pipe> };
	close $pipe;
	return {
		exit => $? >> 8,
		status => $status + 0,
		headers => -e "$DIR/headers" ? slurp("$DIR/headers") : '',
		body => -e "$DIR/body" ? slurp("$DIR/body") : '',
		seconds => time - $begun
	};
}

# Waits until something holds; says whether it came to hold.
sub wait_until
{
	my ($holds) = @_;
	my $deadline = time + 60;

	until ($holds->())
	{
		return 0 if time > $deadline;
		sleep 0.02;
	}
	return 1;
}

# Returns curl's options for a signed request.
sub signed
{
	my ($body, $key) = @_;
	$key = $API_KEY unless defined $key;
	spew("$DIR/request", $body);
	return ('-A', 'my-shop/1.0', '-m', '20', '--data-binary',
		"\@$DIR/request", '-H', 'Content-Type: application/json', '-H',
		'Authorization: Bearer ' . hmac_sha256_hex($body, $key));
}

# Calls a method, as the default shop; further options go to curl.
sub call
{
	my ($self, $method, $params, @options) = @_;
	my $body = $json->encode(
		{ shop_id => $SHOP, nonce => next_nonce(), %{ $params || {} } });
	return curl(signed($body), @options, "$self->{base}/api/$method/");
}

# The same; returns the decoded answer.
sub answer_of
{
	my $result = call(@_);
	my $answer = eval { $json->decode($result->{body}) };
	die "no JSON: curl $result->{exit}, $result->{status}: $result->{body}"
		unless defined $answer;
	return $answer;
}

# Calls a control endpoint; returns the decoded answer, with http_status.
sub control
{
	my ($self, $verb, $path, $body) = @_;
	my @options = ('-X', $verb);
	push @options, '--data-binary', ref $body ? $json->encode($body) : $body
		if defined $body;
	my $result = curl(@options, "$self->{base}/_sandbox/$path");
	my $answer = eval { $json->decode($result->{body}) }
		or die "no JSON: $result->{exit}, $result->{status}: $result->{body}";
	$answer->{http_status} = $result->{status};
	return $answer;
}

# Returns the journal lines since the last call.
sub journal
{
	my ($self) = @_;
	control($self, 'POST', 'flush', {});
	my $content = substr slurp($self->{journal}), $self->{read};
	$self->{read} += length $content;
	return map { $json->decode($_) } split /\n/, $content;
}

sub forget_journal { my @lines = journal(@_); return }

# Runs PHP code with arguments; returns what it prints.
sub php
{
	my ($code, @arguments) = @_;
	open my $pipe, '-|', 'php', '-n', '-r', $code, '--', @arguments
		or die "php: $!";
	local $/;
	my $printed = <$pipe>;
	close $pipe or die 'php failed';
	return $printed;
}

# Runs a command; returns its exit status and all that it prints.
sub run_command
{
	my (@command) = @_;
	my $pid = open my $pipe, '-|';
	die "fork: $!" unless defined $pid;
	if ($pid == 0)
	{
		open STDERR, '>&', \*STDOUT;
		exec @command;
		exit 127;
	}
	my $printed = do { local $/; <$pipe> };
	close $pipe;
	return ($? >> 8, defined $printed ? $printed : '');
}

# Starts a receiver of notifications that answers each with a status, once a
# file, if one is named, is gone; returns its URL and the file to which it writes the bodies,
# a line each.
sub receiver
{
	my ($status, $hold) = @_;
	my $file = "$DIR/received." . ++$count;
	my $listener = IO::Socket::INET->new(
		Listen => 20, LocalAddr => '127.0.0.1') or die "listen: $@";
	my $port = $listener->sockport;
	spew($file, '');
	my $pid = fork;
	die "fork: $!" unless defined $pid;
	if ($pid == 0)
	{
		$SIG{TERM} = sub { POSIX::_exit(0) };
		while (my $socket = $listener->accept)
		{
			my ($head, $length, $body) = ('', 0, '');
			while (my $line = <$socket>)
			{
				last if $line eq "\r\n";
				$head .= $line;
				$length = $1 if $line =~ /^content-length: *(\d+)/i;
			}
			read $socket, $body, $length;
			open my $out, '>>', $file;
			print $out "$body\n";
			close $out;
			sleep 0.02 while defined $hold && -e $hold;
			print $socket "HTTP/1.1 $status X\r\nContent-Length: 0\r\n"
				. "Connection: close\r\n\r\n";
			close $socket;
		}
		POSIX::_exit(0);
	}
	close $listener;
	push @children, $pid;
	return ("http://127.0.0.1:$port/notify", $file);
}

# Opens a plain socket to a sandbox.
sub raw_socket
{
	my ($self) = @_;
	my ($port) = $self->{base} =~ /:(\d+)$/;
	return IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port)
		|| die "connect: $@";
}

# Sends bytes as they are, and returns what comes until it matches, as it is.
sub raw_answer
{
	my ($self, $request, $whole) = @_;
	my ($address) = $self->{base} =~ m{//(.*)$};
	my ($out, $in, $pid);

	if ($self->{base} =~ /^https:/)
	{
		$pid = open2($out, $in, "exec openssl s_client -quiet -connect $address 2>/dev/null");
		$in->autoflush;
	}
	else
	{
		$in = $out = raw_socket($self);
	}
	print $in $request;
	my $answer = '';
	until ($answer =~ $whole)
	{
		sysread $out, $answer, 10000, length $answer or last;
	}
	if ($pid)
	{
		kill 'KILL', $pid;
		waitpid $pid, 0;
	}
	return $answer;
}

1;
