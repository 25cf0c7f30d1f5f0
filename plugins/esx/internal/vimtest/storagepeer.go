package vimtest

import (
	"bytes"
	"crypto/tls"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
)

// ForLibvirt opens another way to the server, beside the gate, that libvirt's own ESX driver can use, and returns its address. That driver
// wants a type at every item of an array, which the simulator leaves out and hosts do not.
func (s *Server) ForLibvirt() string {
	s.t.Helper()
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "https", Host: s.Address()})
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} // the test's own server
	proxy.Transport = transport
	proxy.ErrorLog = discard()
	proxy.ModifyResponse = func(res *http.Response) error {
		if !strings.Contains(res.Header.Get("Content-Type"), "xml") {
			return nil
		}
		body, err := io.ReadAll(res.Body)
		if err != nil {
			return err
		}
		body = typed(body)
		res.Body = io.NopCloser(bytes.NewReader(body))
		res.ContentLength = int64(len(body))
		res.Header.Set("Content-Length", strconv.Itoa(len(body)))
		return nil
	}
	front := httptest.NewTLSServer(proxy)
	s.t.Cleanup(func() {
		front.Close()
		transport.CloseIdleConnections()
	})
	return front.Listener.Addr().String()
}

// typed puts xsi:type at the items of arrays that have none.
func typed(in []byte) []byte {
	var out bytes.Buffer
	var types []string // of the elements that are open
	done := int64(0)
	d := xml.NewDecoder(bytes.NewReader(in))
	for {
		begin := d.InputOffset()
		token, err := d.RawToken()
		if err != nil {
			break
		}
		switch t := token.(type) {
		case xml.StartElement:
			own := typeOf(t)
			if n := len(types); n > 0 && own == "" && strings.HasPrefix(types[n-1], "ArrayOf") {
				end := d.InputOffset()
				out.Write(in[done:begin])
				out.Write(withType(in[begin:end], strings.TrimPrefix(types[n-1], "ArrayOf")))
				done = end
			}
			types = append(types, own)
		case xml.EndElement:
			types = types[:len(types)-1]
		}
	}
	out.Write(in[done:])
	return out.Bytes()
}

// typeOf is the xsi:type of an element.
func typeOf(e xml.StartElement) string {
	for _, a := range e.Attr {
		if a.Name.Local == "type" && a.Name.Space != "" {
			return a.Value
		}
	}
	return ""
}

// withType gives a tag a type.
func withType(tag []byte, kind string) []byte {
	if kind == "String" {
		kind = "xsd:string"
	}
	end := len(tag) - 1
	if tag[end-1] == '/' {
		end--
	}
	attrs := fmt.Sprintf(` xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:xsd="http://www.w3.org/2001/XMLSchema" xsi:type="%s"`, kind)
	return append(append(bytes.Clone(tag[:end]), attrs...), tag[end:]...)
}
