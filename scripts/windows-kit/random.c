// bcryptprimitives.dll, which older Wines lack: Rust's standard library takes random numbers from it.
#include <windows.h>
#include <ntsecapi.h>

__declspec(dllexport) BOOL WINAPI ProcessPrng(BYTE *bytes, SIZE_T count) {
    while (count) {
        ULONG now = count < 1 << 20 ? (ULONG)count : 1 << 20;
        if (!RtlGenRandom(bytes, now)) {
            return FALSE;
        }
        bytes += now;
        count -= now;
    }
    return TRUE;
}
