#!/bin/sh
# Migrations that go on for ever, for the dashboards: each round applies two and takes both back, so that nothing grows;
# in every sixth round a third one fails.
set -u
mkdir -p db/migrations db/environments
cat > db/environments/local.yaml <<YAML
name: demo
database_url: ${DATABASE_URL}
webhooks:
  endpoints:
    - {name: analytics, url: "http://127.0.0.1:8000/analytics", retry: {schedule: [1, 2, 4]}}
    - {name: nobody, url: "http://127.0.0.1:9/", retry: {schedule: [1, 1]}}
YAML
round=${ROUNDS_FROM:-$(date +%s)}
last=$((round + ${ROUNDS:-1000000000}))
while [ "$round" -lt "$last" ]; do
    rm -f db/migrations/*
    for step in 1 2; do
        table="demo_${round}_${step}"
        echo "CREATE TABLE ${table} AS SELECT generate_series(1, 1000) AS id;" > "db/migrations/${round}${step}_${table}.up.sql"
        echo "DROP TABLE ${table};" > "db/migrations/${round}${step}_${table}.down.sql"
    done
    if [ $((round % 6)) -eq 0 ]; then
        echo "SELECT nosuch_column;" > "db/migrations/${round}3_demo_broken.up.sql"
        echo "SELECT 1;" > "db/migrations/${round}3_demo_broken.down.sql"
    fi
    confiture migrate up
    confiture migrate down --steps 2
    round=$((round + 1))
    sleep "${PAUSE:-15}"
done
