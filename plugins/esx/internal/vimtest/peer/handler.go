package peer

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strconv"
)

// Handler lets a simulator answer and adds the types of the items of arrays.
func Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/sdk" {
			next.ServeHTTP(w, r)
			return
		}
		answer := httptest.NewRecorder()
		next.ServeHTTP(answer, r)
		body := Annotate(answer.Body.Bytes())
		for key, values := range answer.Header() {
			w.Header()[key] = values
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		w.WriteHeader(answer.Code)
		_, _ = w.Write(body)
	})
}

// instance is the space of the attribute that has an element's type.
const instance = "http://www.w3.org/2001/XMLSchema-instance"

// primitives are the items of arrays whose type is not called like their element.
var primitives = map[string]string{
	"string": "xsd:string", "boolean": "xsd:boolean", "byte": "xsd:byte", "short": "xsd:short", "int": "xsd:int", "long": "xsd:long",
	"double": "xsd:double", "anyType": "xsd:anyType",
}

// Annotate adds the attribute xsi:type to each item of an ArrayOf value that has none. It understands what the simulator's encoder writes:
// no comments, no CDATA sections, and no '>' in attributes.
func Annotate(doc []byte) []byte {
	out := make([]byte, 0, len(doc)+len(doc)/4)
	var arrays []bool // of each open element: it is an array
	for len(doc) > 0 {
		begin := bytes.IndexByte(doc, '<')
		if begin < 0 {
			break
		}
		end := bytes.IndexByte(doc[begin:], '>')
		if end < 0 {
			break
		}
		out = append(out, doc[:begin]...)
		tag := doc[begin : begin+end+1]
		doc = doc[begin+end+1:]
		switch tag[1] {
		case '?', '!':
			out = append(out, tag...)
		case '/':
			out = append(out, tag...)
			if len(arrays) > 0 {
				arrays = arrays[:len(arrays)-1]
			}
		default:
			item := len(arrays) > 0 && arrays[len(arrays)-1]
			out = append(out, annotated(tag, item)...)
			if tag[len(tag)-2] != '/' {
				arrays = append(arrays, bytes.Contains(tag, []byte(`:type="ArrayOf`)))
			}
		}
	}
	return append(out, doc...)
}

// annotated returns a start tag, with a type if it is an item without one.
func annotated(tag []byte, item bool) []byte {
	if !item || bytes.Contains(tag, []byte(":type=")) {
		return tag
	}
	name := tag[1:]
	name = name[:bytes.IndexAny(name, " />")]
	kind, primitive := primitives[string(name)]
	if !primitive {
		kind = string(name)
	}
	attributes := ` xmlns:xsi="` + instance + `" xsi:type="` + kind + `"`
	if primitive {
		attributes = ` xmlns:xsd="http://www.w3.org/2001/XMLSchema"` + attributes
	}
	at := 1 + len(name)
	return append(append(bytes.Clone(tag[:at]), attributes...), tag[at:]...)
}
