<?php
/*
 * The webhook of a PHP shop module: fields out of $_POST, the signature compared
 * without case, "ORDER|success" as the answer.
 *
 * Use: WEBHOOK_FILE=FILE WEBHOOK_SECRET=KEY php -S 127.0.0.1:PORT webhook.php
 *      It appends a line of JSON to FILE for each notification.
 */
$fields = $_POST;
$sign = $fields['sign'] ?? '';
unset($fields['sign']);
ksort($fields);
$good = strcasecmp(md5(http_build_query($fields) . getenv('WEBHOOK_SECRET')), $sign) === 0;
file_put_contents(getenv('WEBHOOK_FILE'), json_encode(['good' => $good, 'fields' => $fields]) . "\n", FILE_APPEND);
echo ($fields['order_id'] ?? '') . ($good ? '|success' : '|error');
