# Asks a server by the driver that Ruby programs use: `db.rb PROTOCOL PORT NAME`.
protocol, port, name = ARGV

case protocol
when "mysql"
  require "mysql2"
  client = Mysql2::Client.new(host: "127.0.0.1", port: port.to_i, username: "root", database: "d")
  client.query("CREATE TABLE #{name} (id int, name text)")
  insert = client.prepare("INSERT INTO #{name} VALUES (?, ?)")
  5.times { |number| insert.execute(number, "x" * 600) }
  7.times { |number| client.query("SELECT * FROM #{name} WHERE id <= #{number}").to_a }
  begin
    client.query("UPDATE #{name} SET nothing = 1")
  rescue Mysql2::Error
  end
when "postgresql"
  require "pg"
  client = PG.connect(host: "127.0.0.1", port: port, user: "postgres", dbname: "postgres")
  client.exec("CREATE TABLE #{name} (id int, name text)")
  5.times { |number| client.exec_params("INSERT INTO #{name} VALUES ($1, $2)", [number, "x" * 600]) }
  7.times { |number| client.exec_params("SELECT * FROM #{name} WHERE id <= $1", [number]) }
  begin
    client.exec("UPDATE #{name} SET nothing = 1")
  rescue PG::Error
  end
when "redis"
  require "redis"
  client = Redis.new(port: port.to_i)
  5.times { client.set(name, "x" * 600) }
  7.times { client.get(name) }
  begin
    client.lpush(name, "x")
  rescue Redis::CommandError
  end
end
