"""The best sizes for one server and one's own texts, found by measuring: `embedwire tune`."""
