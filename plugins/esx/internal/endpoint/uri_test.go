package endpoint

import (
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lodgevirt/lodge/sdk/verr"
)

func proxyURL(scheme, host string) *url.URL { return &url.URL{Scheme: scheme, Host: host} }

func TestURIsAreRead(t *testing.T) {
	for text, want := range map[string]URI{
		"esx:///":                      {Product: ESX},
		"esx://":                       {Product: ESX},
		"esx:///lab":                   {Product: ESX, Name: "lab"},
		"esx:///lab%2Fone/":            {Product: ESX, Name: "lab/one"},
		"esx://esx.lan/":               {Product: ESX, Host: "esx.lan"},
		"esx://root@esx.lan:8443/":     {Product: ESX, Host: "esx.lan", Port: 8443, User: "root"},
		"esx://[fe80::1]:8443":         {Product: ESX, Host: "fe80::1", Port: 8443},
		"esx://h/?no_verify=1":         {Product: ESX, Host: "h", NoVerify: true},
		"esx://h/?No_Verify=1":         {Product: ESX, Host: "h", NoVerify: true},
		"esx://h/?no_verify=0":         {Product: ESX, Host: "h"},
		"esx://h/?auto_answer=1":       {Product: ESX, Host: "h", AutoAnswer: true},
		"esx://h/?transport=http":      {Product: ESX, Host: "h", Transport: "http"},
		"esx://h/?vcenter=*":           {Product: ESX, Host: "h", VCenter: "*"},
		"esx://h/?proxy=p":             {Product: ESX, Host: "h", Proxy: proxyURL("http", "p:1080")},
		"esx://h/?proxy=socks://p:80":  {Product: ESX, Host: "h", Proxy: proxyURL("socks5", "p:80")},
		"vpx:///site":                  {Product: VPX, Name: "site"},
		"vpx:///site/dc1/srv1":         {Product: VPX, Name: "site", Path: []string{"dc1", "srv1"}},
		"vpx://vc/folder/dc1/c1/srv1/": {Product: VPX, Host: "vc", Path: []string{"folder", "dc1", "c1", "srv1"}},
		"vpx://vc/dc%201/srv%2F1":      {Product: VPX, Host: "vc", Path: []string{"dc 1", "srv/1"}},
	} {
		got, err := ParseURI(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		} else if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", text, diff)
		}
	}
}

func TestBadURIsAreRefusedByTheirPart(t *testing.T) {
	for text, part := range map[string]string{
		"gsx://h/":                     `scheme "gsx"`,
		"esx:lab":                      "form",
		"esx:/lab":                     "form",
		"esx://h/#x":                   "form",
		"esx://u:p@h/":                 "password",
		"esx://u@/":                    "no host",
		"esx://h:0/":                   `port "0"`,
		"esx://h:70000/":               "port",
		"esx://h/dc":                   "only a vpx",
		"esx:///a/b":                   "only a vpx",
		"esx:///a//":                   "empty",
		"vpx://vc/":                    "datacenter",
		"vpx://vc/dc":                  "datacenter",
		"vpx:///site/dc":               "datacenter",
		"esx://h/?transport=ftp":       "'transport' has unexpected value 'ftp'",
		"esx://h/?no_verify=yes":       "'no_verify' has unexpected value 'yes'",
		"esx://h/?auto_answer=2":       "'auto_answer'",
		"esx://h/?vcenter=":            "'vcenter'",
		"vpx://vc/d/h?vcenter=*":       "'vcenter'",
		"esx://h/?proxy=ftp://p":       "unexpected type 'ftp'",
		"esx://h/?proxy=socks4://p":    "'socks4' is not supported",
		"esx://h/?proxy=:80":           "'proxy'",
		"esx://h/?proxy=p:99999":       "'proxy'",
		"esx://h/?keyfile=x&no_tty=1":  `"keyfile" is not supported`,
		"esx://h/?no_verify=1;proxy=p": "parameters",
	} {
		_, err := ParseURI(text)
		if !verr.Is(err, verr.InvalidArg) || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: %v, want one of code %d that says %s", text, err, verr.InvalidArg, part)
		}
	}
}

func FuzzParseURI(f *testing.F) {
	for _, seed := range []string{
		"esx:///lab", "vpx://root@vc:443/dc/srv?no_verify=1&auto_answer=0", "esx://[::1]:8/?proxy=socks5://p:1&vcenter=*", "esx:///%2F", "esx://h/?%zz",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		uri, err := ParseURI(text)
		if err != nil {
			if !verr.Is(err, verr.InvalidArg) {
				t.Fatalf("%q: %v has another code", text, err)
			}
			return
		}
		again, err := ParseURI(uri.String())
		if err != nil {
			t.Fatalf("%q was written as %q: %v", text, uri, err)
		}
		if diff := cmp.Diff(uri, again); diff != "" {
			t.Fatalf("%q was written as %q: %s", text, uri, diff)
		}
	})
}

func TestURIsFindTheirEndpoint(t *testing.T) {
	configured := []Config{
		{Name: "a", Product: ESX, Address: "a.lan", User: "root", Password: "1", Thumbprint: strings.Repeat("ab", 32)},
		{Name: "b", Product: ESX, Address: "b.lan:8443", User: "root", Password: "2"},
		{Name: "c", Product: VPX, Address: "vc.lan", User: "root", Password: "3", Proxy: proxyURL("socks5", "p:1080")},
	}
	for text, want := range map[string]string{
		"esx:///a": "a", "esx://A.lan/": "a", "esx://a.lan:443/": "a", "esx://root@a.lan/?no_verify=1": "a",
		"esx://b.lan:8443/?transport=https": "b", "vpx:///": "c", "vpx:///c/dc/h": "c", "vpx://vc.lan/dc/h?proxy=socks5://p": "c",
	} {
		uri, err := ParseURI(text)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Resolve(configured, uri); err != nil || got.Name != want {
			t.Errorf("%s means %q, %v; want %q", text, got.Name, err, want)
		}
	}
	for text, code := range map[string]verr.Code{
		"esx:///": verr.InvalidArg, "esx:///c": verr.NoConnect, "esx://b.lan/": verr.NoConnect, "esx://other/": verr.NoConnect,
		"esx://admin@a.lan/": verr.InvalidArg, "esx://a.lan:443/?transport=http": verr.InvalidArg,
		"esx://a.lan/?proxy=evil": verr.InvalidArg, "esx:///b?no_verify=1": verr.InvalidArg,
	} {
		uri, err := ParseURI(text)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Resolve(configured, uri); !verr.Is(err, code) {
			t.Errorf("%s means %q, %v; want code %d", text, got.Name, err, code)
		}
	}
}
