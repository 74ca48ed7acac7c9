/* How the C files of this room report a failure to Rust. The mirror of `Failure` in failure.rs. */
#ifndef PHOTOSEARCH_FAILURE_H
#define PHOTOSEARCH_FAILURE_H

enum photosearch_kind {
    PHOTOSEARCH_OK = 0,
    /* The file contradicts its format, or data of the picture are missing. */
    PHOTOSEARCH_DAMAGED = 1,
    /* The file is sound, but of a kind that the library does not read. */
    PHOTOSEARCH_UNSUPPORTED = 2,
    /* The library would have taken more memory than it was given. */
    PHOTOSEARCH_TOO_MUCH_MEMORY = 3,
    /* The system had no memory left. */
    PHOTOSEARCH_OUT_OF_MEMORY = 4,
    /* The caller's `stop` asked for the end. */
    PHOTOSEARCH_STOPPED = 5,
};

struct photosearch_failure {
    int kind;
    /* What is wrong, in the library's words; empty where the kind says all. Ends in a 0. */
    char message[256];
};

/* Non-zero where the caller wants the work to end. Called from time to time with `context`. */
typedef int (*photosearch_stop)(void *context);

#endif
