//go:build tools

// Package mock pins AWS's own double of the metadata service.
package mock

import _ "github.com/aws/amazon-ec2-metadata-mock/cmd"
