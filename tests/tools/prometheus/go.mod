module rolegate.test/prometheus

go 1.24.9

require github.com/prometheus/prometheus v0.309.1
