module confiture-webhooks/compose

go 1.25.0

tool github.com/docker/compose/v2/cmd

require github.com/docker/compose/v2 v2.40.3
