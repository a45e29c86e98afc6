<?php
/*
 * The payment API with PHP's curl, as the provider's PHP sample and the modules
 * of shops use it: no User-Agent, and json_encode's bytes as they are.
 *
 * Use: php curl_client.php BASE SHOP API_KEY SECRET_KEY
 */
[, $base, $shop, $api_key, $secret_key] = $argv;

/* The nonce is the clock in microseconds. */
function call(string $method, array $params = []): array
{
	global $base, $shop, $api_key;
	$body = json_encode(['shop_id' => $shop, 'nonce' => (int) (microtime(true) * 1e6)] + $params);
	$curl = curl_init("$base/api/$method/");
	curl_setopt_array($curl, [
		CURLOPT_POST => true,
		CURLOPT_RETURNTRANSFER => true,
		CURLOPT_POSTFIELDS => $body,
		CURLOPT_TIMEOUT => 20,
		CURLOPT_HTTPHEADER => ['Content-Type: application/json',
			'Authorization: Bearer ' . hash_hmac('sha256', $body, $api_key)],
	]);
	$answer = json_decode((string) curl_exec($curl), true);
	curl_close($curl);
	if (($answer['type'] ?? null) !== 'success')
		exit("$method: " . ($answer['desc'] ?? 'no answer') . "\n");
	return $answer['data'];
}

$balance = call('balance')['balance']['RUB'];
$order = call('createOrder', ['currency' => 'RUB', 'amount' => 100.50, 'order_id' => 'Заказ №1',
	'payment_system' => 10, 'fields' => ['email' => 'user@site.ru'],
	'receipt' => ['items' => [['name' => 'чай', 'count' => 3, 'price' => 33.5]]]]);
$found = call('order', ['payment_id' => 'Заказ №1']);
$again = call('order', ['order_id' => $order['id']]);
$payout = call('createWithdrawal', ['currency' => 'RUB', 'account' => '4111111111111111', 'amount' => 10,
	'payment_id' => 'Выплата 1', 'payment_system' => 5]);
$paid_out = call('withdrawal', ['payment_id' => 'Выплата 1']);

$fields = ['shop_id' => $shop, 'amount' => '5.00', 'currency' => 'RUB', 'order_id' => 'Ссылка 1', 'test' => 1];
ksort($fields);
$fields['sign'] = md5(http_build_query($fields) . $secret_key);
$fields += ['lang' => 'ru', 'payment_system' => 10, 'success_url' => 'https://shop.example/?a=1&b=2',
	'fields' => ['email' => 'user@site.ru'],
	'receipt' => ['items' => [['name' => 'чай', 'count' => 1, 'price' => '5.00']]]];
$curl = curl_init("$base/pay/form/");
curl_setopt_array($curl, [CURLOPT_POSTFIELDS => http_build_query($fields), CURLOPT_RETURNTRANSFER => true]);
curl_exec($curl);
$link = curl_getinfo($curl, CURLINFO_RESPONSE_CODE);
curl_close($curl);

echo json_encode(['balance' => $balance, 'order' => $found['payment_id'],
	'same' => $again === $found && $found['id'] === $order['id'], 'payout' => $paid_out['payment_id'],
	'left' => $payout['balance']['RUB'], 'same_payout' => $paid_out['id'] === $payout['order_id'],
	'link' => $link]), "\n";
