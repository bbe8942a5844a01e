/** What New API's cluster deployment guide has its readers write, as it prints it, and how its blocks go together. */

/** @source the guide's steps 2 to 4, its advanced settings, health check and log management */
export const MASTER = `
services:
  new-api-master:
    image: calciumion/new-api:latest
    container_name: new-api-master
    restart: always
    ports:
      - "3000:3000"
    environment:
      - SQL_DSN=root:password@tcp(your-db-host:3306)/new-api
      - REDIS_CONN_STRING=redis://default:password@your-redis-host:6379
      - SESSION_SECRET=your_unique_session_secret
      - CRYPTO_SECRET=your_unique_crypto_secret
      - TZ=Asia/Shanghai
      # 以下是可选配置
      - SYNC_FREQUENCY=60  # 同步频率，单位秒
      - FRONTEND_BASE_URL=https://your-domain.com  # 前端基础 URL，用于邮件通知等功能
    volumes:
      - ./data:/data
      - ./logs:/app/logs
`

export const SLAVE = `
services:
  new-api-slave:
    image: calciumion/new-api:latest
    container_name: new-api-slave
    restart: always
    ports:
      - "3000:3000"  # 可以与主节点使用相同端口，因为它们在不同服务器上
    environment:
      - SQL_DSN=root:password@tcp(your-db-host:3306)/new-api  # 与主节点相同
      - REDIS_CONN_STRING=redis://default:password@your-redis-host:6379  # 与主节点相同
      - SESSION_SECRET=your_unique_session_secret  # 必须与主节点相同
      - CRYPTO_SECRET=your_unique_crypto_secret  # 必须与主节点相同
      - NODE_TYPE=slave  # 关键配置，指定为从节点
      - SYNC_FREQUENCY=60  # 从节点与主节点同步频率，单位秒
      - TZ=Asia/Shanghai
      # 以下是可选配置
      - FRONTEND_BASE_URL=https://your-domain.com  # 需与主节点相同
    volumes:
      - ./data:/data
      - ./logs:/app/logs
`

export const NGINX = `
upstream new_api_cluster {
    server master-node-ip:3000 weight=3;
    server slave-node1-ip:3000 weight=5;
    server slave-node2-ip:3000 weight=5;
    # 可添加更多从节点
}

server {
    listen 80;
    server_name your-domain.com;

    location / {
        proxy_pass http://new_api_cluster;
        proxy_set_header Host $host;
        proxy_set_header X-Real-IP $remote_addr;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_set_header X-Forwarded-Proto $scheme;
    }
}
`

export const SYNC_SETTINGS = { SYNC_FREQUENCY: '60', BATCH_UPDATE_ENABLED: 'true', BATCH_UPDATE_INTERVAL: '5' }

export const REDIS_SETTINGS = `
environment:
  - REDIS_CONN_STRING=redis://your-redis-host:6379
  - REDIS_PASSWORD=your_redis_password
  - REDIS_MASTER_NAME=mymaster  # 哨兵模式下的主节点名称
  - REDIS_CONN_POOL_SIZE=10     # Redis 连接池大小
`

export const SECRET_SETTINGS = `
environment:
  - SESSION_SECRET=your_unique_session_secret  # 所有节点必须相同
  - CRYPTO_SECRET=your_unique_crypto_secret    # 所有节点必须相同
`

export const LOG_SETTINGS = `
environment:
  - LOG_SQL_DSN=root:password@tcp(log-db-host:3306)/new_api_logs  # 独立的日志数据库
`

export const HEALTH_CHECK = `
healthcheck:
  test: ["CMD-SHELL", "wget -q -O - http://localhost:3000/api/status | grep -o '\\"success\\":\\\\s*true' | awk -F: '{print $$2}'"]
  interval: 30s
  timeout: 10s
  retries: 3
`

/** Blocks of the guide that begin with `environment:` belong to a service of its compose files. */
const withBlocks = (file: string, ...blocks: readonly string[]): string =>
  file + blocks.map((block) => block.trim().replace(/^/gm, '    ')).join('\n')

/** A compose file of the guide with the variables of further blocks beside its own; the last of a name counts. */
export const withSettings = (file: string, ...blocks: readonly string[]): string =>
  withBlocks(
    file.replace(/^ {4}environment:\n[\s\S]*?(?= {4}volumes:)/m, ''),
    `environment:\n${[file, ...blocks]
      .flatMap((block) => block.match(/^ +- [A-Z_]+=.*$/gm) ?? [])
      .map((line) => `  ${line.trim()}`)
      .join('\n')}`,
  )
