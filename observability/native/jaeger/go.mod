module confiture-webhooks/jaeger

go 1.25.0

tool github.com/jaegertracing/jaeger/cmd/jaeger

// The last v1 tag carries the program of Jaeger 2.13.
require github.com/jaegertracing/jaeger v1.76.0

// Jaeger's own go.mod has it too; a replacement counts only in the main module.
replace github.com/Shopify/sarama => github.com/Shopify/sarama v1.33.0
