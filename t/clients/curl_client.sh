#!/bin/sh
# The payment API from a shell: curl and openssl, bodies written by hand, the
# clock in nanoseconds as the nonce.
#
# Use: curl_client.sh BASE SHOP API_KEY SECRET_KEY
set -eu
base=$1 shop=$2 api_key=$3 secret_key=$4

# call METHOD PARAMS: prints the answer
call()
{
	body="{ \"nonce\": $(date +%s%N), \"shop_id\": \"$shop\"$2 }"
	sign=$(printf %s "$body" | openssl dgst -sha256 -hmac "$api_key" -r | cut -d' ' -f1)
	answer=$(curl -sS --noproxy '*' -m 20 -H 'Content-Type: application/json' \
		-H "Authorization: Bearer $sign" --data-binary "$body" "$base/api/$1/")
	case $answer in
		'{"type":"success"'*) printf '%s\n' "$answer" ;;
		*) echo "$1: $answer" >&2; exit 1 ;;
	esac
}

# member NAME: prints a member of the answer on standard input
member()
{
	sed -n "s/.*\"$1\":\"\{0,1\}\([^\",}]*\).*/\1/p"
}

balance=$(call balance '' | member RUB)
order=$(call createOrder ', "currency": "RUB", "amount": 100.50, "order_id": "Order 1",
	"receipt": { "items": [ { "name": "tea", "count": 1, "price": 100.50 } ] }' | member id)
found=$(call order ', "payment_id": "Order 1"')
again=$(call order ", \"order_id\": $order")
payout=$(call createWithdrawal ', "currency": "RUB", "account": "4111111111111111", "amount": "10.00",
	"payment_id": "Payout 1", "payment_system": 5')
paid_out=$(call withdrawal ', "payment_id": "Payout 1"')
signed="amount=5.00&currency=RUB&order_id=Link+1&shop_id=$shop"
sign=$(printf %s "$signed$secret_key" | md5sum | cut -d' ' -f1)
link=$(curl -sS --noproxy '*' -m 20 -o /dev/null -w '%{http_code}' "$base/pay/?$signed&sign=$sign")

same=false same_payout=false
[ "$found" != "$again" ] || [ "$(printf %s "$found" | member id)" != "$order" ] || same=true
[ "$(printf %s "$paid_out" | member id)" != "$(printf %s "$payout" | member order_id)" ] || same_payout=true
printf '{"balance":"%s","order":"%s","same":%s,"payout":"%s","left":"%s","same_payout":%s,"link":%s}\n' \
	"$balance" "$(printf %s "$found" | member payment_id)" "$same" \
	"$(printf %s "$paid_out" | member payment_id)" "$(printf %s "$payout" | member RUB)" \
	"$same_payout" "$link"
