"""Does a server keep the Open Inference Protocol? Any can be asked: see README.md."""
