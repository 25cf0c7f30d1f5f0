package virtconf_test

import "strings"

// accepted are files that virtlockd 9.0.0 starts with.
func accepted() []string {
	return []string{
		"", "# c\n", "# c", "#", " # c\n", "# c\r\n", "# c\n\n", "# c\n   ", "# c\n\t", "# c\n\n\n# d\n", "\n# c\n",
		"max_clients = 5", "max_clients=5\n", "max_clients = 0\n", "max_clients = 4294967295\n", "max_clients = +5\n",
		"max_clients = 007\n", "max_clients = 5 # c\n", "max_clients = 5;\n", "max_clients = 5\nmax_clients = 6\n",
		"max_clients = 5;max_clients = 7\n", "max_clients = 7\nmax_clients = \"x\"\n", "MAX_CLIENTS = 5\n",
		"log_level = 0\n", "log_level = 1\n", "log_level = 4\n", "log_filters = \"1:a\"\n", "log_filters = '1:a'\n",
		"log_filters = \"\"\n", "log_outputs = \"1:stderr\"\n", "log_outputs = \"\"\n", "admin_max_clients = 0\n", "admin_max_clients = 5\n",
		"foo = 1\n", "FOO = 1\n", "foo = \"x\"\n", "foo = \"x\"", "foo =\t1\n", "foo\t=\t1\n", "  foo = 1\n", "\tfoo = 1\n", "foo = 1 #",
		"foo = 1\r\n", "foo = 1\r\nbar = 2\r\n", "foo = 1\rbar = 2", "\n\na = 1\n", "a = 1\n\n", "a = 1\n\n\n   \n", "a = 1\n   ",
		"a = 1; b = 2\n", "a = 1;b = 2", "a = 1;\n\n", "a = 1 ; # c\n", "a = 1 # c ; b = x\n", "a = 1;# c\n", "a = [ 1 ]; b = 2",
		"a = 1\n#", "a = 1 #c\n\n\n", "a = 1\n \t\n# c\n \n", "a = 1;   ", "a = 1;\n",
		"foo = -1\n", "foo = +1\n", "foo = 9223372036854775807\n", "foo = 9223372036854775808\n", "foo = -9223372036854775809\n",
		"foo = \"\"\n", "foo = ''\n", "foo = \"a\\\\\"\n", "foo = \"a\\n\"\n", "foo = 'a\"b'\n", "foo = \"a'b\"\n", "foo = \"\xff\xfe\"\n",
		"foo = \"\"\"x\ny\"\"\"\n", "foo = \"\"\"x\"y\"\"\"\n", "foo = \"\"\"\"\"\"\n", "foo = \"\"\"\n\"\"\"\n", "a = \"\"\"x\"\"\"",
		"a = \"\"\"\\\"\"\"\n", "foo = [ \"\"\"a\nb\"\"\" ]\n",
		"foo = []\n", "foo = [ ]\n", "foo = [\n]\n", "foo = [ \"a\", \"b\" ]\n", "foo = [\"a\",\"b\"]\n", "foo = [ \"a\", 1 ]\n",
		"foo = [ 1, 2 ]\n", "foo = [ 1 ]\n", "foo = [ -1 ]\n", "foo = [ \"a\", ]\n", "foo = [\n\"a\",\n\"b\"\n]\n",
		"foo = [ [\"a\"] ]\n", "foo = [ \"a\",\n\n\"b\" ]\n", "foo = [ \"a\" ,\"b\",\n ]\n", "foo = [ \"a\" ] # c\n", "foo = [ \"a\", \"b\" \n ]\n",
		"foo = [\n\n\"a\"\n\n]\n", "foo = [ \"a\"\n\n, \"b\" ]\n", "a = [ [ ] , [ 1, \"b\" ] ]\n",
		"a = " + strings.Repeat("[", 40) + strings.Repeat("]", 40) + "\n",
		"foo = 1" + strings.Repeat(" ", 100000) + "\n", "foo = \"" + strings.Repeat("x", 100000) + "\"\n", strings.Repeat("x", 5000) + " = 1\n",
	}
}

// refused are files that virtlockd 9.0.0 does not start with, and the line that is to be named.
func refused() map[string]int {
	return map[string]int{
		"max_clients 5\n": 1, "max_clients =\n": 1, "max_clients": 1, "max_clients = 5\nfoo\n": 2,
		"max_clients = -1\n": 1, "max_clients = 4294967296\n": 1, "max_clients = 99999999999999999999\n": 1,
		"max_clients = 0x10\n": 1, "max_clients = 5 x\n": 1, "max_clients = 5 max_clients = 6\n": 1, "max_clients = 5.0\n": 1,
		"max_clients = \"5\"\n": 1, "max_clients = '5'\n": 1, "max_clients = []\n": 1, "max_clients = [5]\n": 1, "max_clients = - 5\n": 1,
		"max_clients = \"x\"\nmax_clients = 7\n": 1, "max_clients = 5 ,\n": 1, "\n\nadmin_max_clients = \"5\"\n": 3, "admin_max_clients = -1\n": 1,
		"log_level = 5\n": 1, "log_level = -1\n": 1, "log_level = 4294967295\n": 1, "log_level = \"1\"\n": 1,
		"log_level = 4294967297\n": 1, "log_filters = 1\n": 1, "log_filters = [ \"1:a\" ]\n": 1, "log_outputs = 1\n": 1,
		"log_outputs = [ \"1:stderr\" ]\n": 1,
		"foo = x\n":                        1, "foo = yes\n": 1, "foo\n= 1\n": 1, "foo =\n1\n": 1, "1foo = 1\n": 1, "_foo = 1\n": 1, "-foo = 1\n": 1,
		"foo-bar = 1\n": 1, "foo.bar = 1\n": 1, "foo/bar = 1\n": 1, "foo:bar = 1\n": 1, "foo+bar = 1\n": 1, "foo$ = 1\n": 1,
		".foo = 1\n": 1, "\"foo\" = 1\n": 1, "= 1\n": 1, "f\xc3\xb6 = 1\n": 1, "\x00": 1, "\xef\xbb\xbffoo = 1\n": 1, "foo = 1\x0b\n": 1,
		"foo = 1\x0c\n": 1, "\x0cfoo = 1\n": 1, "foo = 1,\n": 1, "foo = - 1\n": 1, "foo = -\n": 1, "a = +\n": 1, "a = +-1\n": 1, "a = --1\n": 1,
		"foo = 1a\n": 1, "foo = \"a\"b\n": 1, "foo = \"a\"bar = 1\n": 1, "foo == 1\n": 1, "foo = = 1\n": 1, "foo = 1 = 2\n": 1,
		"foo bar = 1\n": 1, "; c\n": 1, "// c\n": 1, "[section]\n": 1, "foo = 1 2\n": 1, "foo#bar = 1\n": 1, "foo = #\n": 1,
		"foo = 1bar = 2\n": 1, "foo = 10 bar = 2\n": 1, "a = 1\nb = \nc = 3\n": 2, "a = 1\n\n\n# x\n  b = zz\n": 5,
		"a = 1;;b = 2": 1, "; a = 1": 1, ";": 1, "a = 1\n;\n": 2,
		"foo = \"x\n\"\n": 1, "foo = 'x\ny'\n": 1, "foo = \"a": 1, "foo = 'a": 1, "foo = \"a\\": 1, "foo = \"a\\\"b\"\n": 1, "foo = \"a\" \"b\"\n": 1,
		"foo = 'a\\'b'\n": 1, "foo = '''a'''\n": 1, "foo = '''a\nb'''\n": 1, "foo = \"\"a\"\"\n": 1,
		"foo = \"\"\"x\"\"\n": 1, "foo = \"\"\"x": 1, "foo = \"\"\"a\"\"\"b\n": 1, "foo = \"\"\"a\"\"\"\"\n": 1, "a = \"\"\"x\n": 1, "a = \"\"\"\"\n": 1,
		"a = \"\"\"\"\"\n": 1, "a = [\"x\n\"]\n": 1, "a = \"\"\"\n\n\"\"\"\nb = \n": 4,
		"foo = [ \"a\" \"b\" ]\n": 1, "foo = [ , ]\n": 1, "foo = [,\"a\"]\n": 1, "foo = [\"a\",,\"b\"]\n": 1, "foo = [ \"a\" # c\n, \"b\" ]\n": 1,
		"foo = [ # c\n \"a\" ]\n": 1, "foo = [ #\n": 1, "foo = [ \"a\"\n": 2, "foo = [ \"a\" ] x\n": 1, "foo = [ x ]\n": 1, "foo = [ \"a\"; \"b\" ]\n": 1,
		"foo = [ \"a\", # c\n \"b\" ]\n": 1, "foo = [ \"a\", \"b\" ]bar = 1\n": 1, "a = [ 1; 2 ]\n": 1,
		"# " + strings.Repeat("x", 10<<20) + "\n": 0,
	}
}

// Files that virtlockd and we judge differently, on purpose.
const (
	// blankFile is refused by virtlockd for want of a name.
	blankFile = "   \n\n"
	// nulFile is accepted by virtlockd, which reads the string up to the NUL.
	nulFile = "foo = \"\x00\"\n"
)
