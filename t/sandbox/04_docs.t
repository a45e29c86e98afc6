# The examples of docs/sandbox.md, as they stand there, but for the ports.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use SandboxTest;
use Test::More;

BAIL_OUT('python3 is missing') unless grep { -x "$_/python3" } split /:/, $ENV{PATH};

my $text = slurp("$ROOT/docs/sandbox.md");
my @examples = $text =~ /^```(sh|php|python)\n(.*?)^```$/msg;
my $s = start_sandbox('http');
my ($port) = base($s) =~ /:(\d+)$/;
my ($url, $received) = receiver(200);
my ($receiver_port) = $url =~ /:(\d+)/;
my $count = 0;

while (my ($language, $code) = splice @examples, 0, 2)
{
	my ($first) = $code =~ /^(?:<\?php\n)?(.*)$/m;
	$code =~ s/\b8089\b/$port/g;
	$code =~ s/\b8090\b/$receiver_port/g;
	if ($code =~ m{^sandbox/tegro-sandbox|&& sandbox/tegro-sandbox}m)
	{
		# Those run until they are ended: let them find a port and say so.
		$code =~ s/--port \d+/--port 0/;
		$code =~ s{sandbox/tegro-sandbox}{timeout 3 $SANDBOX};
		$code =~ s{make -C sandbox}{make -s -C $ROOT/sandbox};
		$code = "cd $DIR; $code";
	}
	my $file = spew("$DIR/example." . ++$count, $code);
	my %run = (sh => ['sh'], php => [ 'php', '-n' ], python => ['python3']);
	my ($status, $printed) = run_command(@{ $run{$language} }, $file);
	if ($code =~ /timeout/)
	{
		is($status, 124, "$language: $first");
		like($printed, qr{listening on https?://127\.0\.0\.1:\d+$}m, '… listens');
	}
	else
	{
		is($status, 0, "$language: $first");
		unlike($printed, qr/"type": ?"error"|'type': 'error'|warning/i, '… no error');
		isnt($printed, '', '… prints');
	}
	if ($code =~ m{api/balance})
	{
		my ($shown) = $text =~ /^```\n(\{"type".*)\n```$/m;
		is($printed, $shown, '… what is shown');
	}
}
is($count, 8, 'all examples');
like(slurp($received), qr/^amount=100\.50&/, 'the shop was notified');
my $state = control($s, 'GET', 'state')->{data};
is($state->{counts}{orders}, 1, 'PHP made an order');
is($state->{counts}{withdrawals}, 1, 'Python made a payout');
is(control($s, 'GET', 'fault')->{data}[0]{action}, 'execute_then_close', 'curl queued a fault');
is(stop_sandbox($s), 0, 'it ends');

done_testing();
