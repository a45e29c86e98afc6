/*
 * The payment API with Node's built-in fetch.
 *
 * Use: node fetch_client.mjs BASE SHOP API_KEY SECRET_KEY [--default-agent]
 *      With the option it sends the User-Agent that Node sends by default.
 */
import { createHash, createHmac } from 'node:crypto';

const [base, shop, apiKey, secretKey, option] = process.argv.slice(2);
const agent = option === '--default-agent' ? {} : { 'User-Agent': 'tegro-client/1.0' };
let previous = 0;

/* The nonce is the clock in milliseconds. */
async function call(method, params = {}) {
  while (Date.now() === previous) await new Promise((resolve) => setTimeout(resolve, 1));
  previous = Date.now();
  const body = JSON.stringify({ shop_id: shop, nonce: previous, ...params });
  const sign = createHmac('sha256', apiKey).update(body).digest('hex');
  const response = await fetch(`${base}/api/${method}/`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', Authorization: `Bearer ${sign}`, ...agent },
    body,
  });
  if (!response.ok) {
    console.log(`${method}: HTTP ${response.status} ${(await response.text()).match(/error \d+/)}`);
    process.exit(1);
  }
  const answer = await response.json();
  if (answer.type !== 'success') {
    console.log(`${method}: ${answer.desc}`);
    process.exit(1);
  }
  return answer.data;
}

const balance = (await call('balance')).balance.RUB;
const order = await call('createOrder', {
  currency: 'RUB', amount: 100.5, order_id: 'Заказ №1',
  receipt: { items: [{ name: 'чай', count: 1, price: 100.5 }] },
});
const found = await call('order', { payment_id: 'Заказ №1' });
const again = await call('order', { order_id: order.id });
const payout = await call('createWithdrawal', {
  currency: 'RUB', account: '4111111111111111', amount: 10, payment_id: 'Выплата 1', payment_system: 5,
});
const paidOut = await call('withdrawal', { payment_id: 'Выплата 1' });

const query = new URLSearchParams({ shop_id: shop, amount: '5.00', currency: 'RUB', order_id: 'Ссылка 1' });
query.sort();
query.append('sign', createHash('md5').update(query.toString() + secretKey).digest('hex'));
const link = await fetch(`${base}/pay?${query}`, { headers: agent });

console.log(JSON.stringify({
  balance,
  order: found.payment_id,
  same: JSON.stringify(again) === JSON.stringify(found) && found.id === order.id,
  payout: paidOut.payment_id,
  left: payout.balance.RUB,
  same_payout: paidOut.id === payout.order_id,
  link: link.status,
}));
