<?php
// Asks a server by the driver that PHP programs use: `db.php PROTOCOL PORT NAME`, or as a page with these parameters.
[$protocol, $port, $name] = PHP_SAPI == "cli" ? array_slice($argv, 1) : [$_GET["protocol"], $_GET["port"], $_GET["name"]];

function statements($database, $name) {
    $database->setAttribute(PDO::ATTR_ERRMODE, PDO::ERRMODE_EXCEPTION);
    $database->exec("CREATE TABLE $name (id int, name text)");
    $insert = $database->prepare("INSERT INTO $name VALUES (?, ?)");
    for ($number = 0; $number < 5; $number++) $insert->execute([$number, str_repeat("x", 600)]);
    $select = $database->prepare("SELECT * FROM $name WHERE id <= ?");
    for ($number = 0; $number < 7; $number++) {
        $select->execute([$number]);
        $select->fetchAll();
    }
    try {
        $database->exec("UPDATE $name SET nothing = 1");
    } catch (PDOException) {
    }
}

if ($protocol == "mysql") statements(new PDO("mysql:host=127.0.0.1;port=$port;dbname=d", "root", ""), $name);
if ($protocol == "postgresql") statements(new PDO("pgsql:host=127.0.0.1;port=$port;dbname=postgres", "postgres"), $name);
if ($protocol == "redis") {
    $redis = new Redis();
    $redis->connect("127.0.0.1", (int) $port);
    for ($number = 0; $number < 5; $number++) $redis->set($name, str_repeat("x", 600));
    for ($number = 0; $number < 7; $number++) $redis->get($name);
    $redis->lPush($name, "x");
}
if ($protocol == "http") {
    $client = curl_init();
    for ($number = 0; $number < 10; $number++) {
        $outcome = $number < 7 ? "" : "?missing=1";
        curl_setopt_array($client, [CURLOPT_URL => "http://127.0.0.1:$port/asked-by-$name$outcome", CURLOPT_RETURNTRANSFER => true]);
        if (curl_exec($client) === false) exit(1);
    }
}
echo "done";
