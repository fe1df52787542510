// Linked against one whole library and its declared dependencies: an undeclared one fails here.
int main() { return 0; }
