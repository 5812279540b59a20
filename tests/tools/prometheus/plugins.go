// Package plugins takes the place of Prometheus's own list of what it can find targets through.
package plugins

import _ "github.com/prometheus/prometheus/discovery/kubernetes"
