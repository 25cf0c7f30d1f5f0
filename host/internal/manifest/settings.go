package manifest

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	basev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/base/v1"
)

// Settings is the operator's plugins.d/NAME.toml.
type Settings struct {
	// Disabled keeps the plugin from being started.
	Disabled bool `toml:"disabled"`
	// SHA256 pins the binary; it goes before the manifest's own.
	SHA256 string `toml:"sha256"`
	// LogLevel is trace, debug, info, warn or error; empty is info.
	LogLevel string `toml:"log_level"`
	// IdleTimeout goes before the manifest's own, if it is given.
	IdleTimeout *Duration `toml:"idle_timeout"`
	// Secrets are the UUIDs of the secrets whose values the plugin may ask for.
	Secrets []string `toml:"secrets"`
	// Config is the plugin's own table.
	Config map[string]any `toml:"config"`
}

// ReadSettings reads a plugin's settings in a folder. A file that does not exist gives the defaults.
func ReadSettings(dir, name string) (*Settings, error) {
	path := filepath.Join(dir, name+".toml")
	data, err := readTrusted(path)
	if errors.Is(err, os.ErrNotExist) {
		return &Settings{}, nil
	}
	if err != nil {
		return nil, err
	}
	return parseSettings(path, data)
}

func parseSettings(path string, data []byte) (*Settings, error) {
	s := &Settings{}
	if err := decode(path, data, s); err != nil {
		return nil, err
	}
	s.SHA256 = strings.ToLower(s.SHA256)
	if s.SHA256 != "" && !validSHA256.MatchString(s.SHA256) {
		return nil, fmt.Errorf("%s: sha256 must be 64 hexadecimal digits", path)
	}
	switch s.LogLevel {
	case "", "trace", "debug", "info", "warn", "error":
	default:
		return nil, fmt.Errorf("%s: log_level must be trace, debug, info, warn or error", path)
	}
	return s, nil
}

// EncodeConfig checks a plugin's own table against the keys that the plugin described, and returns it as the JSON object of
// ConfigureRequest.
func EncodeConfig(config map[string]any, keys []*basev1.ConfigKey) ([]byte, error) {
	kinds := make(map[string]basev1.ValueKind, len(keys))
	for _, k := range keys {
		kinds[k.GetName()] = k.GetKind()
	}
	for name, value := range config {
		kind, ok := kinds[name]
		if !ok {
			return nil, fmt.Errorf("check configuration: unknown key %q", name)
		}
		if !hasKind(value, kind) {
			return nil, fmt.Errorf("check configuration: key %q must be %s", name, kindNames[kind])
		}
	}
	if config == nil {
		config = map[string]any{}
	}
	data, err := json.Marshal(config)
	if err != nil {
		return nil, fmt.Errorf("encode configuration: %w", err)
	}
	return data, nil
}

var kindNames = map[basev1.ValueKind]string{
	basev1.ValueKind_VALUE_KIND_STRING:  "a string",
	basev1.ValueKind_VALUE_KIND_INTEGER: "an integer",
	basev1.ValueKind_VALUE_KIND_BOOLEAN: "true or false",
	basev1.ValueKind_VALUE_KIND_STRINGS: "an array of strings",
	basev1.ValueKind_VALUE_KIND_TABLES:  "tables by name, of strings, integers, booleans and arrays of strings",
}

// plainKinds are those of a single value.
var plainKinds = []basev1.ValueKind{
	basev1.ValueKind_VALUE_KIND_STRING, basev1.ValueKind_VALUE_KIND_INTEGER, basev1.ValueKind_VALUE_KIND_BOOLEAN,
	basev1.ValueKind_VALUE_KIND_STRINGS,
}

// areTables reports whether a value is tables by name, whose values are plain.
func areTables(value map[string]any) bool {
	for _, table := range value {
		fields, ok := table.(map[string]any)
		if !ok {
			return false
		}
		for _, v := range fields {
			if !slices.ContainsFunc(plainKinds, func(k basev1.ValueKind) bool { return hasKind(v, k) }) {
				return false
			}
		}
	}
	return true
}

func hasKind(value any, kind basev1.ValueKind) bool {
	switch v := value.(type) {
	case string:
		return kind == basev1.ValueKind_VALUE_KIND_STRING
	case int64:
		return kind == basev1.ValueKind_VALUE_KIND_INTEGER
	case bool:
		return kind == basev1.ValueKind_VALUE_KIND_BOOLEAN
	case []any:
		for _, item := range v {
			if _, ok := item.(string); !ok {
				return false
			}
		}
		return kind == basev1.ValueKind_VALUE_KIND_STRINGS
	case map[string]any:
		return kind == basev1.ValueKind_VALUE_KIND_TABLES && areTables(v)
	default:
		return false
	}
}
