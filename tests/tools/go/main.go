// Command aws-client loads credentials as any program with the SDK for Go v2 does, once for every line of
// standard input. It prints one JSON object a line: access_key_id and expiration, or error.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
)

type answer struct {
	AccessKeyID string     `json:"access_key_id,omitempty"`
	Expiration  *time.Time `json:"expiration,omitempty"`
	Error       string     `json:"error,omitempty"`
}

func main() {
	ctx := context.Background()
	cfg, err := config.LoadDefaultConfig(ctx)
	out := json.NewEncoder(os.Stdout)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		if err != nil {
			_ = out.Encode(answer{Error: err.Error()})
			continue
		}
		_ = out.Encode(load(ctx, cfg.Credentials))
	}
}

func load(ctx context.Context, provider aws.CredentialsProvider) answer {
	credentials, err := provider.Retrieve(ctx)
	if err != nil {
		return answer{Error: err.Error()}
	}
	loaded := answer{AccessKeyID: credentials.AccessKeyID}
	if credentials.CanExpire {
		loaded.Expiration = &credentials.Expires
	}
	return loaded
}
